"""The HTTP routes."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.admin import require_admin
from service.answers import (
    ClassifyAnswer,
    Health,
    LoadError,
    ModelDescription,
    ModelsAnswer,
    Problem,
)
from service.endpoint import CLASSIFY_BODY, CLASSIFY_PARAMETERS, CLASSIFY_PATH, ClassifyEndpoint
from service.examples import CLASSIFY_ANSWER, answered
from service.metrics import Metrics
from service.models import Models
from service.problems import PROBLEM_JSON
from service.reloading import Reloader
from service.settings import Settings


def _problems(*descriptions: tuple[int, str], model: type[Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """Statuses that come with problem details, or with `model` as plain JSON."""
    content = {PROBLEM_JSON: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": description, "content": content, "model": model} for status, description in descriptions
    }


def build_router(
    settings: Settings, models: Models, reloader: Reloader, endpoint: ClassifyEndpoint, metrics: Metrics
) -> APIRouter:
    """All routes, bound to the parts that answer them."""
    router = APIRouter()

    @router.post(
        CLASSIFY_PATH,
        response_model=ClassifyAnswer,
        openapi_extra=CLASSIFY_BODY | CLASSIFY_PARAMETERS,
        responses=answered(CLASSIFY_ANSWER)
        | _problems(
            (400, "Malformed request"),
            (404, "No such model"),
            (408, "The body did not arrive in time"),
            (429, "No room, or not enough time for the deadline; see Retry-After"),
            (500, "The model, or the service, failed"),
            (503, "Not ready, or shutting down"),
            (504, "The deadline has passed"),
        )
        | _problems(
            (413, "Body too large; or no picture could be classified, and the first one is too large"),
            (415, "Content type not accepted; or no picture could be classified, and the first one is of no format"),
            (422, "No picture could be classified, and the first one is broken"),
            model=ClassifyAnswer,
        ),
    )
    async def classify(request: Request) -> Response:
        """Classify one or many pictures. A picture that cannot be classified leaves the others alone.

        Files in a form: `curl -F files=@a.jpg -F files=@b.png localhost:8000/classify?top_k=2`

        One picture as the body: `curl --data-binary @a.jpg -H 'Content-Type: image/jpeg' localhost:8000/classify`

        JSON: pictures in base64 or as `data:` URLs, other URLs are not fetched; options stand in it, not in the query.
        """
        return await endpoint.answer(request)

    def describe() -> ModelsAnswer:
        return ModelsAnswer(
            models=[
                ModelDescription(
                    name=model.file.name,
                    version=model.file.version,
                    provider=model.provider,
                    batch_limit=model.queue.limit,
                    batch_curve=list(model.curve),
                    artifact=model.artifact,
                )
                for model in models.served
            ],
            errors=[
                LoadError(name=name, version=version, message=models.public(message))
                for (name, version), message in models.errors.items()
            ],
            repository_error=models.repository_error and models.public(models.repository_error),
        )

    @router.get("/models")
    async def describe_models() -> ModelsAnswer:
        """The models being served, the execution provider that each really runs on, and what could not be loaded."""
        return describe()

    @router.post("/models/reload", responses=_problems((401, "No token, a wrong one, or none is configured")))
    async def reload(request: Request) -> ModelsAnswer:
        """Look at the model repository now. Needs `Authorization: Bearer` with the service's admin token."""
        require_admin(request, settings)
        await reloader.reload_everywhere()
        return describe()

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
    async def scrape(request: Request) -> Response:
        """Metrics, as OpenMetrics or in Prometheus's text format, whichever is asked for."""
        models.update_gauges()
        content, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    return router
