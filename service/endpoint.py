"""`POST /classify`: from a request to its answer.

It is the one route that has to be fast, so requests reach it before FastAPI, which describes it: that took the event
loop's time for a request from 0.37 to 0.27 ms (FastAPI 0.165, under full load on two cores).
"""

import logging
from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.admission import Account
from service.answers import classify_answer
from service.body import FILES_FIELD, Picture, read_pictures
from service.deadline import HEADER, Deadline
from service.entrance import Entrance
from service.errors import BadPicture, ServiceError
from service.examples import CLASSIFY_JSON
from service.json_body import JSON, ClassifyJson, is_json, read_json
from service.models import ServedModel
from service.problems import problem_response
from service.query import ClassifyQuery
from service.record import RequestRecord
from service.settings import Settings

logger = logging.getLogger(__name__)

CLASSIFY_PATH = "/classify"

BINARY = {"schema": {"type": "string", "format": "binary"}}

CLASSIFY_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FILES_FIELD],
                    "properties": {FILES_FIELD: {"type": "array", "items": BINARY["schema"]}},
                }
            },
            JSON: {"schema": ClassifyJson.model_json_schema(), "example": CLASSIFY_JSON},
            **dict.fromkeys(("image/jpeg", "image/png", "image/webp", "application/octet-stream"), BINARY),
        },
    }
}


CLASSIFY_PARAMETERS = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
        for name, schema in ClassifyQuery.model_json_schema()["properties"].items()
    ]
    + [
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 1},
            "description": "milliseconds until the answer is of no use any more; past them it is 504",
        }
    ]
}


class ClassifyEndpoint:
    """The ASGI application of the one route.

    Args:
        settings: limits of a request.
        entrance: leads it in.
    """

    def __init__(self, settings: Settings, entrance: Entrance) -> None:
        self._settings = settings
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self.answer(Request(scope, receive))
        except ServiceError as error:
            response = problem_response(error)
        except Exception:
            logger.exception("a request failed in a way that nobody foresaw")
            response = problem_response(ServiceError("an unexpected error; the service's log has it"))
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """Classify one or many pictures. Raises a ServiceError if there is no answer but a problem."""
        record = RequestRecord.of(request.scope)
        deadline = Deadline.of(request.headers, self._settings)
        if is_json(request):
            read_asked = partial(read_json, request, self._settings, deadline)
            query: ClassifyQuery
            query, classified = await self._entrance.classify_json(record, deadline, read_asked, request.receive)
        else:
            query = ClassifyQuery.of(request)

            async def read(_: ServedModel, account: Account) -> Sequence[Picture]:
                return await read_pictures(request, self._settings, deadline, account)

            classified = await self._entrance.classify(
                record, query.model, query.version, deadline, read, request.receive
            )
        errors = [result for result in classified.results if isinstance(result, ServiceError)]
        none_classified = len(errors) == len(classified.results)
        for error in errors:
            if none_classified and not isinstance(error, BadPicture):
                raise error  # the service's fault, which a client may try again
        with record.timed("encode"):
            answer = classify_answer(classified, query.top_k)
            status = errors[0].status if none_classified else 200
            return Response(answer.json, status, media_type="application/json")
