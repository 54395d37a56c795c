"""Pictures in a JSON body, for clients that have nothing else."""

from pydantic import ConfigDict, Field, ValidationError
from starlette.requests import Request

from service.admission import Account
from service.base64_picture import Base64Picture
from service.body import Picture, arriving, limited, require_few_values
from service.deadline import Deadline
from service.errors import BadRequest, RequestTooLarge
from service.query import ClassifyQuery, bad_request
from service.settings import Settings

JSON = "application/json"

VALUES_PER_IMAGE = 2
"""Commas: one behind it, and one in a data: URL."""

OPTIONS = 16
"""More than there are."""


class ClassifyJson(ClassifyQuery):
    """A request to classify as JSON. It has what the query has otherwise."""

    model_config = ConfigDict(strict=True, extra="forbid")

    images: list[str] = Field(description="each a picture's file in base64, or a data: URL; no other URL is fetched")

    @property
    def pictures(self) -> list[Picture]:
        """In order."""
        return [Picture(None, Base64Picture(text)) for text in self.images]


def is_json(request: Request) -> bool:
    """Whether the body says that it is JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


async def read_json(request: Request, settings: Settings, deadline: Deadline, account: Account) -> ClassifyJson:
    """Read the body, counting its bytes as they come.

    Args:
        request: whose body.
        settings: limits.
        deadline: the request's.
        account: holds the body's bytes.

    Raises:
        RequestTooLarge: more bytes, pictures or values than allowed.
        BadRequest: it is not as `ClassifyJson` has it, holds no picture, or there is a query too.
        ServiceError: the body does not arrive, as `arriving` and `limited` have it.
    """
    if request.query_params:
        raise BadRequest("with a JSON body, options stand in it and not in the query")
    async with arriving(settings, deadline):
        body = b"".join([chunk async for chunk in limited(request, settings, account)])
    require_few_values(body, VALUES_PER_IMAGE * settings.max_images + OPTIONS)
    try:
        asked = ClassifyJson.model_validate_json(body)
    except ValidationError as error:
        raise bad_request(error) from error
    if not asked.images:
        raise BadRequest("the request holds no picture")
    if len(asked.images) > settings.max_images:
        raise RequestTooLarge(f"the request has more than the {settings.max_images} pictures allowed")
    return asked
