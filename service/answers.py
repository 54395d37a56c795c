"""The JSON that the service answers with, as its OpenAPI document describes it."""

from pydantic import BaseModel, Field

from service.artifact import Artifact


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    version: int


class Prediction(BaseModel):
    """One of a picture's most probable classes."""

    label: str
    class_id: int
    probability: float


class PictureError(BaseModel):
    """Why a picture could not be classified."""

    code: str
    message: str


class ClassifiedPicture(BaseModel):
    """A picture's place in the answer, best class first."""

    index: int = Field(description="place in the request, from 0")
    filename: str | None
    predictions: list[Prediction]


class RejectedPicture(BaseModel):
    """The place of a picture that could not be classified; the others are not affected."""

    index: int = Field(description="place in the request, from 0")
    filename: str | None
    error: PictureError


class ClassifyAnswer(BaseModel):
    """A result for every picture, in request order."""

    model: ModelName
    results: list[ClassifiedPicture | RejectedPicture]


class ModelDescription(BaseModel):
    """A model that is being served, the execution provider that its session reports, and what its file says."""

    name: str
    version: int
    provider: str
    artifact: Artifact


class ModelsAnswer(BaseModel):
    """Every model that is being served."""

    models: list[ModelDescription]


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
