"""`POST /classify`: from a request to its answer.

It is the one route that has to be fast, so requests reach it before FastAPI, which describes it: that took the event
loop's time for a request from 0.37 to 0.27 ms (FastAPI 0.165, under full load on two cores).
"""

import logging
from typing import Self

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.admission import Account, HeldBytes
from service.answers import ClassifiedPicture, classify_answer
from service.body import FILES_FIELD, MEBIBYTE, Picture, read_pictures
from service.classifier import Classifier
from service.deadline import HEADER, Deadline
from service.errors import BadPicture, BadRequest, ServiceError
from service.metrics import Metrics
from service.models import Models, ServedModel
from service.problems import problem_response
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
            **dict.fromkeys(("image/jpeg", "image/png", "image/webp", "application/octet-stream"), BINARY),
        },
    }
}


class ClassifyQuery(BaseModel):
    """The query of `POST /classify`."""

    model: str | None = Field(None, description="name; needless when one model is served")
    version: int | None = Field(None, ge=1, description="the newest when left out")
    top_k: int = Field(5, ge=1, description="how many classes of each picture")

    @classmethod
    def of(cls, request: Request) -> Self:
        """The request's.

        Raises:
            BadRequest: a value is not of its type.
        """
        if not request.query_params:
            return cls()
        try:
            return cls.model_validate(dict(request.query_params))
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(f"{first['loc'][-1]}: {first['msg']}") from error


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
        models: where the request's model is found.
        classifier: classifies its pictures.
        metrics: shows the bytes held.
    """

    def __init__(self, settings: Settings, models: Models, classifier: Classifier, metrics: Metrics) -> None:
        self._settings = settings
        self._models = models
        self._classifier = classifier
        self._held_bytes = HeldBytes(settings.max_queue_mb * MEBIBYTE, metrics.body_bytes)

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
        query = ClassifyQuery.of(request)
        deadline = Deadline.of(request.headers, self._settings)
        with (
            self._models.use(query.model, query.version) as model,
            self._held_bytes.account(model.retry_after) as account,
        ):
            record.model = model
            pictures = await self._read(request, record, model, deadline, account)
            results = await self._classifier.classify(record, model, pictures, deadline, request.receive)
            errors = [result for result in results if isinstance(result, ServiceError)]
            none_classified = len(errors) == len(results)
            for error in errors:
                if none_classified and not isinstance(error, BadPicture):
                    raise error  # the service's fault, which a client may try again
            with record.timed("encode"):
                answer = classify_answer(model, pictures, results, query.top_k)
                status = errors[0].status if none_classified else 200
                response = Response(answer.model_dump_json(), status, media_type="application/json")
            for result in answer.results:
                if isinstance(result, ClassifiedPicture):
                    best = result.predictions[0]
                    model.metrics.count_prediction(best.class_id, best.probability)
            return response

    async def _read(
        self, request: Request, record: RequestRecord, model: ServedModel, deadline: Deadline, account: Account
    ) -> list[Picture]:
        """The request's pictures. A request that ends before they are there is counted as one picture."""
        with record.failures_counted(), record.timed("read"):
            model.require_working()
            model.admission.check(1, deadline.seconds_left)  # or there is no point in reading it
            pictures = await read_pictures(request, self._settings, deadline, account)
        record.filenames = [picture.filename for picture in pictures]
        return pictures
