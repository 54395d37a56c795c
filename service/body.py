"""From a request's body to the pictures in it: multipart/form-data with files, or one picture as the body."""

import asyncio
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.admission import Account
from service.deadline import Deadline
from service.errors import (
    BadRequest,
    BodyTooSlow,
    ClientGone,
    PictureTooLarge,
    RequestTooLarge,
    ServiceError,
    UnsupportedBody,
)
from service.settings import Settings
from service.work import Content

FILES_FIELD = "files"

MEBIBYTE = 1 << 20

SMALL = 1 << 16
"""Most bytes of a body that holds no pictures."""

BOUNDARY = rb"[0-9A-Za-z'()+_,./:=? -]{1,70}"


@dataclass(frozen=True)
class Picture:
    """One picture of a request."""

    filename: str | None
    content: Content


class _MemoryParser(MultiPartParser):
    """Keeps files in memory, which the body's limit bounds; the container's file system may be read-only.

    Refuses a body without its closing boundary, whose last picture may be cut off, and closes its files whatever
    goes wrong.
    """

    spool_max_size = sys.maxsize

    _complete = False

    def on_end(self) -> None:
        super().on_end()
        self._complete = True

    async def parse(self) -> FormData:
        try:
            form = await super().parse()
            self._require_complete()
        except BaseException:
            for file in self._files_to_close_on_error:
                file.close()
            raise
        return form

    def _require_complete(self) -> None:
        if not self._complete:
            raise MultiPartException("it ends before its closing boundary")


async def read_pictures(request: Request, settings: Settings, deadline: Deadline, account: Account) -> list[Picture]:
    """Read the body, counting its bytes as they come.

    Args:
        request: whose body.
        settings: limits.
        deadline: the request's.
        account: holds the body's bytes.

    Raises:
        UnsupportedBody: the content type is neither multipart/form-data, image/* nor application/octet-stream.
        RequestTooLarge: more bytes or pictures than allowed; the rest is not read.
        PictureTooLarge: the body is one picture, and that larger than allowed; the rest is not read.
        BadRequest: the multipart body is malformed, has other fields than `files`, or there is no picture.
        ServiceError: the body does not arrive, as `arriving` and `limited` have it.
    """
    header = request.headers.get("content-type", "application/octet-stream")
    media_type, options = parse_options_header(header)
    content_type = media_type.decode("latin-1").lower()
    async with arriving(settings, deadline):
        if content_type == "multipart/form-data":
            stream = limited(request, settings, account)
            pictures = await _read_multipart(options.get(b"boundary", b""), stream, settings.max_images)
        elif content_type.startswith("image/") or content_type == "application/octet-stream":
            data = b"".join([chunk async for chunk in limited(request, settings, account, one_picture=True)])
            pictures = [Picture(None, data)] if data else []
        else:
            raise UnsupportedBody(
                f"content type '{content_type}' is not accepted; send multipart/form-data with files in the field "
                f"'{FILES_FIELD}', one picture with its type (image/jpeg, …) or application/octet-stream, or JSON"
            )
    if not pictures:
        raise BadRequest("the request holds no picture")
    return pictures


def require_few_values(text: bytes, most: int) -> None:
    """Whether JSON has so many values at most, as nearly as its commas tell.

    Read, each would take many times its bytes, and Python's lock all the while.

    Raises:
        RequestTooLarge: it has more.
    """
    if text.count(b",") > most:
        raise RequestTooLarge(f"the request's JSON has more than the {most} values allowed; send binary data instead")


async def read_small(request: Request, settings: Settings) -> bytes:
    """A body of a few words.

    Raises:
        RequestTooLarge: it has more than `SMALL` bytes; the rest is not read.
        BodyTooSlow: it did not arrive in time.
        ClientGone: the client left.
    """
    body = b""
    try:
        async with asyncio.timeout(settings.max_body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > SMALL:
                    raise RequestTooLarge(f"the request's body is larger than the {SMALL} bytes that this needs")
    except ClientDisconnect as error:
        raise ClientGone(f"the client left after {len(body)} bytes of the body") from error
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not arrive within {settings.max_body_seconds} seconds") from error
    return body


@asynccontextmanager
async def arriving(settings: Settings, deadline: Deadline) -> AsyncIterator[None]:
    """A block that reads a body, and has to end in time.

    Raises:
        BodyTooSlow: it did not arrive in time.
        DeadlineExceeded: the request's own time was over before.
    """
    latest = asyncio.get_running_loop().time() + settings.max_body_seconds
    try:
        async with asyncio.timeout_at(min(latest, deadline.at)):
            yield
    except TimeoutError as error:
        if deadline.at <= latest:  # by the clock it may not quite have passed: uvloop's timers are a millisecond early
            raise deadline.exceeded(body_unread=True) from error
        raise BodyTooSlow(f"the body did not arrive within {settings.max_body_seconds} seconds") from error


async def limited(
    request: Request, settings: Settings, account: Account, *, one_picture: bool = False
) -> AsyncGenerator[bytes, None]:
    """The body as it comes.

    Args:
        request: whose.
        settings: limits.
        account: holds its bytes.
        one_picture: whether all of it is one picture, which may have fewer bytes than a request.

    Raises:
        RequestTooLarge: it is larger than allowed; the rest is not read.
        PictureTooLarge: the same of one picture.
        Overloaded: there is no room for so many bytes; the rest is not read.
        ClientGone: the client left.
    """
    too_large: type[ServiceError]
    if one_picture and settings.max_image_mb < settings.max_request_mb:
        mebibytes, too_large = settings.max_image_mb, PictureTooLarge
        message = f"the picture is larger than the {mebibytes} MiB allowed"
    else:
        mebibytes, too_large = settings.max_request_mb, RequestTooLarge
        message = f"the request's body is larger than the {mebibytes} MiB allowed"
    limit = mebibytes * MEBIBYTE
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        if int(announced) > limit:
            raise too_large(message)
        account.require_room(int(announced))
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise too_large(message)
            account.hold(received)
            yield chunk
    except ClientDisconnect as error:
        raise ClientGone(f"the client left after {received} bytes of the body") from error


async def _read_multipart(boundary: bytes, stream: AsyncGenerator[bytes, None], max_images: int) -> list[Picture]:
    if not re.fullmatch(BOUNDARY, boundary):
        raise BadRequest("the multipart body's content type names no valid boundary (RFC 2046, section 5.1.1)")
    # Nothing else of the header counts: names are UTF-8, whatever character set the client would have us decode.
    headers = Headers(raw=[(b"content-type", b'multipart/form-data; boundary="' + boundary + b'"')])
    parser = _MemoryParser(headers, stream, max_files=max_images, max_fields=max_images)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise RequestTooLarge(f"the request has more than the {max_images} pictures allowed") from error
        raise BadRequest(f"the multipart body cannot be read: {error.message}") from error
    try:
        pictures = []
        for field, value in form.multi_items():
            if field != FILES_FIELD or not isinstance(value, UploadFile):
                raise BadRequest(
                    f"field '{field}' is not understood; send the pictures as files in '{FILES_FIELD}' and options "
                    "in the query"
                )
            pictures.append(Picture(value.filename, await value.read()))
        return pictures
    finally:
        await form.close()
