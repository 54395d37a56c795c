"""The protocol's HTTP routes, below /v2."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from service.admin import REPOSITORY, require_admin
from service.body import read_small
from service.entrance import Entrance
from service.errors import BadRequest
from service.examples import INFER_ANSWER, INFER_JSON, answered
from service.models import Models
from service.open_inference.descriptions import (
    is_model_ready,
    is_ready,
    model_metadata,
    repository_index,
    server_metadata,
    version_number,
)
from service.open_inference.messages import (
    IndexEntry,
    IndexRequest,
    InferAnswer,
    InferRequest,
    Live,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    Ready,
    RepositoryRequest,
    ServerMetadata,
)
from service.open_inference.rest import HEADER, infer
from service.reloading import Reloader
from service.settings import Settings

PREFIX = "/v2"

MODEL = "/models/{model_name}"
VERSION = MODEL + "/versions/{model_version}"


def _errors(*descriptions: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": description, "model": ProtocolError} for status, description in descriptions}


SCHEMAS = "#/components/schemas/{model}"

BODY_SCHEMAS = models_json_schema(
    [(body, "validation") for body in (InferRequest, IndexRequest, RepositoryRequest)], ref_template=SCHEMAS
)[1]["$defs"]
"""Of bodies that FastAPI does not read, and so does not describe; by name, for the OpenAPI document."""

BINARY = {
    "application/octet-stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": f"the JSON, as many bytes as the header {HEADER} says, then the tensors",
        }
    }
}

INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": SCHEMAS.format(model=InferRequest.__name__)},
                "example": INFER_JSON,
            },
            **BINARY,
        },
    }
}


def _small_body(message: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": SCHEMAS.format(model=message.__name__)}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


def build_router(settings: Settings, models: Models, reloader: Reloader, entrance: Entrance) -> APIRouter:
    """All routes, bound to the parts that answer them."""
    router = APIRouter(prefix=PREFIX, tags=["Open Inference Protocol"])
    no_model = (404, "No such model or version")

    @router.get("")
    async def server() -> ServerMetadata:
        """Name, version and extensions of the server."""
        return server_metadata()

    @router.get("/health/live")
    async def live() -> Live:
        """The process answers."""
        return Live(live=True)

    @router.get("/health/ready", responses={503: {"model": Ready, "description": "Not ready, or shutting down"}})
    async def ready(response: Response) -> Ready:
        """Every model is loaded, warmed and able to answer."""
        answer = Ready(ready=is_ready(models))
        response.status_code = 200 if answer.ready else 503
        return answer

    @router.get(MODEL, responses=_errors(no_model))
    @router.get(VERSION, responses=_errors(no_model))
    async def metadata(model_name: str, model_version: str | None = None) -> ModelMetadata:
        """What the model takes and gives. A request has one of the inputs, `pixels` or encoded pictures as `image`."""
        with models.use(model_name, version_number(model_name, model_version)) as model:
            return model_metadata(model, models)

    model_not_ready: dict[int | str, dict[str, Any]] = {
        503: {"model": ModelReady, "description": "Not ready, or shutting down"}
    }

    @router.get(MODEL + "/ready", responses=_errors(no_model) | model_not_ready)
    @router.get(VERSION + "/ready", responses=_errors(no_model) | model_not_ready)
    async def model_ready(response: Response, model_name: str, model_version: str | None = None) -> ModelReady:
        """The model can answer."""
        number = version_number(model_name, model_version)
        answer = ModelReady(name=model_name, ready=is_model_ready(models, model_name, number))
        response.status_code = 200 if answer.ready else 503
        return answer

    infer_answers = answered(INFER_ANSWER, **BINARY) | _errors(
        (400, "Malformed request, or a tensor of the wrong name, type or shape"),
        no_model,
        (408, "The body did not arrive in time"),
        (413, "Body or picture too large, or too many pictures"),
        (415, "A picture of no accepted format, or a compressed body"),
        (422, "A picture is broken"),
        (429, "No room, or not enough time for the deadline; see Retry-After"),
        (500, "The model, or the service, failed"),
        (503, "Not ready, or shutting down"),
        (504, "The deadline has passed"),
    )

    @router.post(MODEL + "/infer", responses=infer_answers, response_model=InferAnswer, openapi_extra=INFER_BODY)
    @router.post(VERSION + "/infer", responses=infer_answers, response_model=InferAnswer, openapi_extra=INFER_BODY)
    async def inference(request: Request, model_name: str, model_version: str | None = None) -> Response:
        """Classify pictures. The protocol has no errors of single ones: that of the first bad one is the request's."""
        return await infer(request, entrance, settings, model_name, version_number(model_name, model_version))

    body_errors = _errors((400, "Malformed request"), (408, "The body did not arrive in time"), (413, "Body too large"))

    @router.post("/repository/index", responses=body_errors, openapi_extra=_small_body(IndexRequest))
    async def index(request: Request) -> list[IndexEntry]:
        """What is served, what could not be loaded, and what was unloaded."""
        body = await read_small(request, settings)
        return repository_index(models, ready_alone=IndexRequest.of(body or b"{}").ready)

    async def require_control(request: Request) -> None:
        require_admin(request, settings)
        asked = RepositoryRequest.of(await read_small(request, settings) or b"{}")
        if settings.has_peers:
            raise BadRequest("this would reach one of several processes alone; add or remove the model's files instead")
        if others := asked.parameters.keys() - {"unload_dependents"}:
            raise BadRequest(
                f"parameters {', '.join(sorted(others))}: models come from the repository, as they are there"
            )

    repository_errors = body_errors | _errors(
        (400, "Malformed request, or several processes"), (401, "No token, or a wrong one"), no_model
    )

    @router.post(
        REPOSITORY + "{model_name}/load",
        responses=repository_errors | _errors((500, "Unusable file")),
        openapi_extra=_small_body(RepositoryRequest),
    )
    async def load(request: Request, model_name: str) -> dict[str, str]:
        """Look for the model in the repository now, and serve it. Needs the service's admin token."""
        await require_control(request)
        await reloader.load(model_name)
        return {}

    @router.post(
        REPOSITORY + "{model_name}/unload",
        responses=repository_errors,
        openapi_extra=_small_body(RepositoryRequest),
    )
    async def unload(request: Request, model_name: str) -> dict[str, str]:
        """Serve the model no more, until it is loaded again or the service restarts. Needs the admin token."""
        await require_control(request)
        await reloader.unload(model_name)
        return {}

    return router
