"""Where models lie: <models>/<name>/<version>/model.onnx, version a whole number."""

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

from service.artifact import MODEL_NAME_PATTERN
from service.errors import UnusableModel

MODEL_FILE = "model.onnx"

VERSION_PATTERN = "[1-9][0-9]*"


@dataclass(frozen=True)
class Stamp:
    """Tells one state of a file from another."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class ModelFile:
    """One version of a model on disk. The folders' names are what requests call it by."""

    name: str
    version: int
    path: Path
    stamp: Stamp

    @property
    def unchanged(self) -> bool:
        """Whether the file is still the one that was found."""
        try:
            return Stamp.of(self.path) == self.stamp
        except OSError:
            return False


def find_models(folder: Path) -> dict[str, list[ModelFile]]:
    """Every model file of a repository: names in order, the newest version of each first. Hidden folders don't count.

    Raises:
        UnusableModel: the repository is missing or empty, or a folder in it cannot be a model's.
    """
    if not folder.is_dir():
        raise UnusableModel(f"model repository {folder} is not a directory; set --models to the folder of your models")
    found = []
    for path in folder.glob(f"*/*/{MODEL_FILE}"):
        name, version = path.parts[-3:-1]
        if name.startswith(".") or version.startswith("."):
            continue
        if not re.fullmatch(MODEL_NAME_PATTERN, name) or not re.fullmatch(VERSION_PATTERN, version):
            raise UnusableModel(
                f"{path} is not at <name>/<version>/{MODEL_FILE}, with a name of letters, digits, '.', '_' and '-' and "
                "a whole number from 1 without leading zeros as version"
            )
        try:
            found.append(ModelFile(name, int(version), path, Stamp.of(path)))
        except OSError:  # removed since it was listed
            continue
    if not found:
        raise UnusableModel(
            f"model repository {folder} has no <name>/<version>/{MODEL_FILE}; export a checkpoint with strip-mlp-export"
        )
    found.sort(key=lambda model: (model.name, -model.version))
    return {name: list(files) for name, files in groupby(found, key=lambda model: model.name)}
