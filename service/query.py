"""What a request to classify may ask for."""

from typing import Self

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request

from service.errors import BadRequest


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
        if not request.scope["query_string"]:
            return cls()
        try:
            return cls.model_validate(dict(request.query_params))
        except ValidationError as error:
            raise bad_request(error) from error


def bad_request(error: ValidationError) -> BadRequest:
    """What a client is told of a value that is not as it has to be."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the request's JSON"
    return BadRequest(f"{place}: {first['msg'].removeprefix('Value error, ')}")
