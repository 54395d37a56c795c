"""Errors as HTTP answers: problem details, RFC 9457, and below /v2 as the Open Inference Protocol has them."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.answers import Problem
from service.errors import BadRequest, ClientGone, Overloaded, ServiceError, Unauthorized
from service.open_inference.messages import ProtocolError

PROBLEM_JSON = "application/problem+json"


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error that a route lets through."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


def problem_response(error: ServiceError) -> Response:
    """The answer to a request that ended with this error."""
    if isinstance(error, ClientGone):
        return Response(status_code=error.status)  # for the metrics; there is nobody to read more
    return _problem(error.status, str(error), error.code, _headers(error))


def _headers(error: ServiceError) -> dict[str, str]:
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, section 11.6.1
    if error.body_unread:
        headers["Connection"] = "close"  # the rest of the body would be waited for
    return headers


def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # registered for it alone
    if isinstance(error, ClientGone):
        return problem_response(error)
    return _answer(request, error.status, str(error), error.code, _headers(error))


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # registered for it alone
    first = error.errors()[0]
    return _answer(request, BadRequest.status, f"{first['loc'][-1]}: {first['msg']}", BadRequest.code)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for it alone
    status = HTTPStatus(error.status_code)
    return _answer(request, status, error.detail, status.name.lower(), error.headers)


def error_response(request: Request, error: ServiceError) -> Response:
    """The answer to a request that ended with this error before it had a route."""
    return _on_service_error(request, error)


def not_found(request: Request) -> Response:
    """The answer for a path that is no route."""
    return _on_http_error(request, HTTPException(HTTPStatus.NOT_FOUND))


def _on_bug(request: Request, _error: Exception) -> Response:
    # Starlette raises the error again after this answer; uvicorn logs it and drops the connection.
    headers = {"Connection": "close"}
    detail = "an unexpected error; the service's log has it"
    return _answer(request, ServiceError.status, detail, ServiceError.code, headers)


def _answer(
    request: Request, status: int, detail: str, code: str, headers: Mapping[str, str] | None = None
) -> Response:
    if request.url.path == "/v2" or request.url.path.startswith("/v2/"):
        return Response(ProtocolError(error=detail).model_dump_json(), status, headers, "application/json")
    return _problem(status, detail, code, headers)


def _problem(status: int, detail: str, code: str, headers: Mapping[str, str] | None) -> Response:
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code)
    return Response(problem.model_dump_json(), status, headers, PROBLEM_JSON)
