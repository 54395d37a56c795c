"""From the protocol's tensors to pictures, and from results to its tensors.

Sources: the protocol's "Tensor Data"; Triton's extensions for binary tensor data and for classification.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.base64_picture import Base64Picture
from service.body import Picture
from service.entrance import Classified
from service.errors import BadRequest, RequestTooLarge, ServiceError
from service.models import ServedModel
from service.open_inference.messages import Datatype
from service.preprocessing import Pixels
from service.session import Scores

LENGTH = struct.Struct("<I")
"""Stands before each element of a BYTES tensor."""


@dataclass(frozen=True)
class Tensor:
    """An input as it was sent."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | list[Any]
    """Row by row as the protocol's binary data; or the elements, flat or nested, but those of BYTES."""


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for."""

    name: str
    classes: int | None = None
    """So many of the best as `value:index:label`; None: the values."""
    binary: bool = False


BOTH = (Wanted("logits"), Wanted("probabilities"))
"""What is meant where no output is named."""


@dataclass(frozen=True)
class Output:
    """An output, float32 (pictures, classes), or strings in as many rows."""

    name: str
    values: NDArray[np.float32] | list[list[str]]
    binary: bool

    @property
    def datatype(self) -> Datatype:
        return "BYTES" if isinstance(self.values, list) else "FP32"

    @property
    def shape(self) -> list[int]:
        return [len(self.values), len(self.values[0])]

    @property
    def flat(self) -> list[Any]:
        """Numbers or strings, row by row."""
        return [value for row in self.values for value in (row if isinstance(row, list) else row.tolist())]

    @property
    def raw(self) -> bytes:
        """As binary data: little-endian, or each string behind its length."""
        if isinstance(self.values, list):
            encoded = [text.encode() for row in self.values for text in row]
            return b"".join(part for text in encoded for part in (LENGTH.pack(len(text)), text))
        return self.values.astype("<f4", copy=False).tobytes()


def pictures_of(tensors: Sequence[Tensor], model: ServedModel, max_images: int) -> list[Picture]:
    """The pictures in a request's one input.

    Args:
        tensors: `pixels`, UINT8 [pictures, size, size, 3], or `image`, BYTES [pictures], each an encoded picture.
        model: whose size they have to have.
        max_images: most pictures.

    Raises:
        BadRequest: there is not just one, or it is not of its name's type, shape and length.
        RequestTooLarge: more pictures than allowed.
    """
    if len(tensors) != 1:
        raise BadRequest(f"the request has {len(tensors)} inputs; give either 'pixels' or 'image'")
    (tensor,) = tensors
    size = model.artifact.architecture.image_size
    wanted: dict[str, tuple[Datatype, tuple[int, ...]]] = {"pixels": ("UINT8", (size, size, 3)), "image": ("BYTES", ())}
    if tensor.name not in wanted:
        raise BadRequest(f"the model has no input '{tensor.name}'; give either 'pixels' or 'image'")
    datatype, rest = wanted[tensor.name]
    if tensor.datatype != datatype or tensor.shape[1:] != rest or not tensor.shape or tensor.shape[0] < 1:
        shape = ", ".join(str(length) for length in ("pictures", *rest))
        raise BadRequest(
            f"input '{tensor.name}' is {tensor.datatype} {list(tensor.shape)}, but has to be {datatype} [{shape}]"
        )
    if tensor.shape[0] > max_images:
        raise RequestTooLarge(f"the request has more than the {max_images} pictures allowed")
    contents = _pixels(tensor) if tensor.name == "pixels" else _encoded(tensor)
    return [Picture(None, content) for content in contents]


def _pixels(tensor: Tensor) -> Pixels:
    length = math.prod(tensor.shape)
    if isinstance(tensor.content, bytes):
        _require_length(tensor, len(tensor.content), length, "bytes")
        return np.frombuffer(tensor.content, np.uint8).reshape(tensor.shape)
    try:
        values = np.asarray(tensor.content)
    except ValueError:  # rows of different lengths
        values = np.empty(0, object)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > np.iinfo(np.uint8).max:
        raise BadRequest(
            f"input '{tensor.name}': its data has to be whole numbers from 0 to 255, flat or in whole rows"
        )
    _require_length(tensor, values.size, length, "elements")
    return values.astype(np.uint8).reshape(tensor.shape)


def _encoded(tensor: Tensor) -> list[bytes] | list[Base64Picture]:
    (count,) = tensor.shape
    if not isinstance(tensor.content, bytes):
        _require_length(tensor, len(tensor.content), count, "elements")
        return tensor.content
    elements, start = [], 0
    for _ in range(count):
        end = start + LENGTH.size
        if end > len(tensor.content):
            break
        (length,) = LENGTH.unpack_from(tensor.content, start)
        start = end + length
        elements.append(tensor.content[end:start])
    if len(elements) != count or start != len(tensor.content):
        raise BadRequest(
            f"input '{tensor.name}': its {len(tensor.content)} bytes are not {count} pictures, each behind its length "
            "in 4 bytes, little-endian"
        )
    return elements


def _require_length(tensor: Tensor, given: int, wanted: int, unit: str) -> None:
    if given != wanted:
        raise BadRequest(f"input '{tensor.name}' has {given} {unit}, but its shape {list(tensor.shape)} means {wanted}")


def require_outputs(wanted: Sequence[Wanted]) -> None:
    """Raise BadRequest unless the model has all of them."""
    for each in wanted:
        if each.name not in ("logits", "probabilities"):
            raise BadRequest(f"the model has no output '{each.name}', only 'logits' and 'probabilities'")


def outputs_of(classified: Classified, wanted: Sequence[Wanted]) -> list[Output]:
    """What was asked for.

    Raises:
        ServiceError: a picture has no result, for which the protocol has no place: the first one's error.
    """
    scores: list[Scores] = []
    for index, result in enumerate(classified.results):
        if isinstance(result, ServiceError):
            raise type(result)(f"picture {index}: {result}") from result
        scores.append(result)
    values = {
        "logits": np.stack([each.logits for each in scores]),
        "probabilities": np.stack([each.probabilities for each in scores]),
    }
    labels = classified.model.artifact.labels
    return [
        Output(
            each.name,
            values[each.name] if each.classes is None else _best(values[each.name], labels, each.classes),
            each.binary,
        )
        for each in wanted
    ]


def _best(values: NDArray[np.float32], labels: Sequence[str], classes: int) -> list[list[str]]:
    best = np.argsort(-values, axis=1, kind="stable")[:, :classes]
    return [
        [f"{row[index]:f}:{index}:{labels[index]}" for index in indices]
        for row, indices in zip(values, best.tolist(), strict=True)
    ]
