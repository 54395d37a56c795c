"""The HTTP routes."""

from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import Response

from service.answers import (
    ClassifiedPicture,
    ClassifyAnswer,
    Health,
    ModelDescription,
    ModelName,
    ModelsAnswer,
    PictureError,
    Problem,
    RejectedPicture,
)
from service.body import FILES_FIELD, read_pictures
from service.classifier import Classifier
from service.errors import BadPicture, ServiceError
from service.metrics import Metrics
from service.models import Models
from service.problems import PROBLEM_JSON
from service.settings import Settings

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
            **dict.fromkeys(("image/jpeg", "image/png", "image/webp", "application/octet-stream"), BINARY),
        },
    }
}


def _problems(*descriptions: tuple[int, str], model: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """Statuses that come with problem details, or with `model` as plain JSON."""
    content = {PROBLEM_JSON: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": description, "content": content, "model": model} for status, description in descriptions
    }


def build_router(settings: Settings, models: Models, classifier: Classifier, metrics: Metrics) -> APIRouter:
    """All routes, bound to the parts that answer them."""
    router = APIRouter()

    @router.post(
        "/classify",
        response_model=ClassifyAnswer,
        openapi_extra=CLASSIFY_BODY,
        responses=_problems(
            (400, "Malformed request"),
            (404, "No such model"),
            (408, "The body did not arrive in time"),
            (429, "Queue full; see Retry-After"),
            (500, "The model, or the service, failed"),
            (503, "Not ready, or shutting down"),
        )
        | _problems(
            (413, "Body too large; or no picture could be classified, and the first one is too large"),
            (415, "Content type not accepted; or no picture could be classified, and the first one is of no format"),
            (422, "No picture could be classified, and the first one is broken"),
            model=ClassifyAnswer,
        ),
    )
    async def classify(
        request: Request,
        model: Annotated[str | None, Query(description="name; needless when one model is served")] = None,
        version: Annotated[int | None, Query(ge=1, description="the newest when left out")] = None,
        top_k: Annotated[int, Query(ge=1, description="how many classes of each picture")] = 5,
    ) -> Response:
        """Classify one or many pictures. A picture that cannot be classified leaves the others alone."""
        served = models.find(model, version)
        name = served.file.name
        started = perf_counter()
        pictures = await read_pictures(request, settings)
        metrics.stage_seconds.labels(name, "read").observe(perf_counter() - started)
        results = await classifier.classify(served, pictures, top_k)
        errors = [result for result in results if isinstance(result, ServiceError)]
        none_classified = len(errors) == len(results)
        for error in errors:
            if none_classified and not isinstance(error, BadPicture):
                raise error  # the service's fault, which a client may try again
        started = perf_counter()
        answer = ClassifyAnswer(
            model=ModelName(name=name, version=served.file.version),
            results=[
                RejectedPicture(
                    index=index,
                    filename=picture.filename,
                    error=PictureError(code=result.code, message=str(result)),
                )
                if isinstance(result, ServiceError)
                else ClassifiedPicture(index=index, filename=picture.filename, predictions=result)
                for index, (picture, result) in enumerate(zip(pictures, results, strict=True))
            ],
        )
        status = errors[0].status if none_classified else 200
        response = Response(answer.model_dump_json(), status, media_type="application/json")
        metrics.stage_seconds.labels(name, "encode").observe(perf_counter() - started)
        return response

    @router.get("/models", responses=_problems((503, "Not ready, or shutting down")))
    async def describe_models() -> ModelsAnswer:
        """The models being served, and the execution provider that each really runs on."""
        models.require_ready()
        return ModelsAnswer(
            models=[
                ModelDescription(
                    name=model.file.name,
                    version=model.file.version,
                    provider=model.session.provider,
                    artifact=model.session.artifact,
                )
                for model in models.served
            ]
        )

    @router.get("/healthz")
    async def health() -> Health:
        """The process answers."""
        return Health(status="ok")

    @router.get("/readyz", responses=_problems((503, "Not ready, or shutting down")))
    async def readiness() -> Health:
        """Every model is loaded, warmed and able to answer."""
        models.require_ready()
        return Health(status="ready")

    @router.get("/metrics", response_class=Response)
    async def scrape() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
