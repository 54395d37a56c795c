"""What a command says of one picture."""

import os
from dataclasses import dataclass
from pathlib import Path

from offline.model import Model
from service.answers import PictureError, Prediction, rank
from service.errors import ServiceError
from service.work import Result


@dataclass(frozen=True)
class Row:
    """A picture's best classes, best first, or the error that befell it."""

    path: str
    """As `shown`."""
    model: str
    version: int
    predictions: tuple[Prediction, ...] = ()
    error: PictureError | None = None


def shown(path: Path) -> str:
    """The path as text of one line: bytes that are not UTF-8 and control characters are written as \\xNN."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def row_of(path: str, result: Result, model: Model, top_k: int) -> Row:
    """What is said of a picture, by its path as `shown`, that has this result."""
    if isinstance(result, ServiceError):
        error = PictureError(code=result.code, message=" ".join(str(result).split()))
        return Row(path, model.name, model.version, error=error)
    return Row(path, model.name, model.version, tuple(rank(result, model.artifact.labels, top_k)))
