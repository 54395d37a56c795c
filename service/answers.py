"""The JSON that the service answers with, as its OpenAPI document describes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import orjson
from pydantic import BaseModel, Field

from service.artifact import Artifact
from service.entrance import Classified
from service.errors import ServiceError
from service.session import Scores
from service.tuning import BatchTime

# The parts of an answer are no pydantic models, with which one took 17 µs in place of 7. Nor have they slots, which
# orjson reads five times as slowly. Their docstrings are what the OpenAPI document says.


@dataclass
class ModelName:
    """Which model answered."""

    name: str
    version: int


@dataclass
class Prediction:
    """One of a picture's most probable classes."""

    label: str
    class_id: int
    probability: float


@dataclass
class PictureError:
    """Why a picture could not be classified."""

    code: str
    message: str


Index = Annotated[int, Field(description="place in the request, from 0")]


@dataclass
class ClassifiedPicture:
    """A picture's place in the answer, best class first."""

    index: Index
    filename: str | None
    predictions: list[Prediction]


@dataclass
class RejectedPicture:
    """The place of a picture that could not be classified; the others are not affected."""

    index: Index
    filename: str | None
    error: PictureError


@dataclass
class ClassifyAnswer:
    """A result for every picture, in request order."""

    model: ModelName
    results: list[ClassifiedPicture | RejectedPicture]

    @property
    def json(self) -> bytes:
        """As it is sent."""
        return orjson.dumps(self)


class ModelDescription(BaseModel):
    """A model that is being served, the execution provider that its session reports, and what its file says."""

    name: str
    version: int
    provider: str
    batch_limit: int = Field(description="most pictures in one run")
    batch_curve: list[BatchTime] = Field(description="measured when the model was loaded, on blank pictures")
    artifact: Artifact


class LoadError(BaseModel):
    """A version in the repository that could not be loaded."""

    name: str
    version: int
    message: str


class ModelsAnswer(BaseModel):
    """Every model that is being served, and why others are not."""

    models: list[ModelDescription]
    errors: list[LoadError]
    repository_error: str | None = Field(description="why the repository cannot be read; models stay as they are then")


class Health(BaseModel):
    """Liveness or readiness."""

    status: str


class Problem(BaseModel):
    """Problem details, RFC 9457."""

    type: str = Field("about:blank", description="RFC 9457, section 4.2.1: the status says it all")
    title: str
    status: int
    detail: str
    code: str = Field(description="stable name of the error, for programs")


def classify_answer(classified: Classified, top_k: int) -> ClassifyAnswer:
    """The answer to a request, its results in the order of its pictures."""
    model = classified.model
    return ClassifyAnswer(
        model=ModelName(name=model.file.name, version=model.file.version),
        results=[
            RejectedPicture(
                index=index, filename=picture.filename, error=PictureError(code=result.code, message=str(result))
            )
            if isinstance(result, ServiceError)
            else ClassifiedPicture(
                index=index, filename=picture.filename, predictions=rank(result, model.artifact.labels, top_k)
            )
            for index, (picture, result) in enumerate(zip(classified.pictures, classified.results, strict=True))
        ],
    )


def rank(scores: Scores, labels: Sequence[str], top_k: int) -> list[Prediction]:
    """The most probable classes of one picture's scores (classes,), best first; equal ones by their number."""
    best = (-scores.probabilities).argsort(kind="stable")[:top_k]
    probabilities = scores.probabilities[best].tolist()
    return [Prediction(labels[c], c, probability) for c, probability in zip(best.tolist(), probabilities, strict=True)]
