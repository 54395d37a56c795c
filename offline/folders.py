"""Pictures in folders that are named as their classes: torchvision's ImageFolder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from offline.errors import OfflineError
from offline.listing import pictures_below


@dataclass(frozen=True)
class LabelledPicture:
    """A file, and the number of its class."""

    path: Path
    class_id: int


@dataclass(frozen=True)
class LabelledFolder:
    """What a folder holds."""

    pictures: Sequence[LabelledPicture]
    unknown: Sequence[str]
    """Folders that are no class of the model, whose pictures are left out."""

    @classmethod
    def read(cls, folder: Path, labels: Sequence[str]) -> Self:
        """Find the pictures of each class.

        A folder is a class if its name is the label, or one of the names between the label's commas (ImageNet has
        "tench, Tinca tinca"); capitals, underscores and spaces make no difference.

        Args:
            folder: has a folder for each class.
            labels: the model's.

        Raises:
            OfflineError: it is no folder, or none of its folders is a class, or has pictures.
        """
        if not folder.is_dir():
            raise OfflineError(f"{folder} is not a directory; give one with a folder for each class")
        classes = _classes(labels)
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        known = {path: classes[_key(path.name)] for path in folders if _key(path.name) in classes}
        pictures = [LabelledPicture(path, known[each]) for each in known for path in pictures_below(each)]
        if not pictures:
            raise OfflineError(
                f"{folder} has no folder of pictures that is named as one of the model's classes ({_some(labels)})"
            )
        return cls(pictures, [path.name for path in folders if path not in known])


def _classes(labels: Sequence[str]) -> dict[str, int]:
    """Every name of a class; those that several have are nobody's, but whole labels go first."""
    whole = {_key(label): number for number, label in enumerate(labels)}
    parts: dict[str, set[int]] = {}
    for number, label in enumerate(labels):
        for part in label.split(","):
            parts.setdefault(_key(part), set()).add(number)
    return {part: min(numbers) for part, numbers in parts.items() if len(numbers) == 1} | whole


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
