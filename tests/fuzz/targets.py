"""What is fuzzed: functions that take any bytes and raise nothing but the service's own errors."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from service.base64_picture import Base64Picture
from service.body import _read_multipart
from service.errors import ServiceError
from service.open_inference.messages import InferRequest
from service.open_inference.rest import _tensors
from service.open_inference.tensors import pictures_of
from service.pixels import read_pixels
from tests.service import colours

PREPROCESSING = colours.artifact().preprocessing

SIZE = PREPROCESSING.image_size

MOST_IMAGES = 4

MODEL: Any = SimpleNamespace(artifact=colours.artifact())

_loop = asyncio.new_event_loop()


def decode(data: bytes) -> None:
    """A picture's file."""
    with suppress(ServiceError):
        pixels = read_pixels(data, PREPROCESSING, max_pixels=1_000_000, exact=False)
        assert (pixels.shape, str(pixels.dtype)) == ((SIZE, SIZE, 3), "uint8")


def multipart(data: bytes) -> None:
    """A multipart body with the boundary B, in chunks of as many bytes as its first byte says; 0: whole."""
    chunk, rest = (data[:1] or b"\0")[0], data[1:]

    async def stream() -> AsyncGenerator[bytes, None]:
        step = chunk or max(1, len(rest))
        for start in range(0, len(rest), step):
            yield rest[start : start + step]

    with suppress(ServiceError):
        pictures = _loop.run_until_complete(_read_multipart(b"B", stream(), MOST_IMAGES))
        assert 0 <= len(pictures) <= MOST_IMAGES
        assert sum(len(picture.content) for picture in pictures if isinstance(picture.content, bytes)) <= len(rest)


def open_inference(data: bytes) -> None:
    """The body of an infer request behind the length of its JSON in 2 bytes, little-endian."""
    length, body = int.from_bytes(data[:2], "little"), data[2:]
    _infer(body, min(length, len(body)))


def tensors(data: bytes) -> None:
    """Binary tensors behind 3 bytes: which input, how many pictures it claims, and by how much its size is off."""
    which, count, off = (*data[:3], 0, 0, 0)[:3]
    name, datatype, rest = ("pixels", "UINT8", [SIZE, SIZE, 3]) if which % 2 else ("image", "BYTES", [])
    size = max(0, len(data[3:]) + off - 128 if which & 2 else len(data[3:]))
    described = {"name": name, "datatype": datatype, "shape": [count, *rest], "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [described] * (2 if which & 4 else 1)}).encode()
    _infer(text + data[3:], len(text))


def _infer(body: bytes, length: int) -> None:
    with suppress(ServiceError):
        message = InferRequest.of(body[:length])
        for picture in pictures_of(_tensors(message, body, length), MODEL, MOST_IMAGES):
            if isinstance(picture.content, Base64Picture):
                picture.content.decode(len(body))
            elif not isinstance(picture.content, bytes):
                assert picture.content.shape == (SIZE, SIZE, 3)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (decode, multipart, open_inference, tensors)
}
