"""Where models lie: <models>/<name>/<version>/model.onnx, version a whole number."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self, TypeVar

from service.artifact import MODEL_NAME_PATTERN
from service.errors import UnusableModel

MODEL_FILE = "model.onnx"

VERSION_PATTERN = "[1-9][0-9]*"

NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Of system calls on a path: it leads nowhere, or through what is no folder."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Stamp:
    """Tells one state of a file from another."""

    inode: int
    size: int
    modified_ns: int
    rights: tuple[int, int, int]
    """Mode, user and group: a file that could not be read is another once it can."""

    @classmethod
    def of(cls, path: Path) -> Self:
        status = path.stat()
        rights = status.st_mode, status.st_uid, status.st_gid
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, rights)


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
        UnusableModel: the repository is missing or empty, a folder in it cannot be a model's, or one that may be a
            model's cannot be read: it would seem to be gone.
    """
    names = _look(os.listdir, folder)
    if names is None:
        raise UnusableModel(f"model repository {folder} is not a directory; set --models to the folder of your models")
    found = [model for name in names if not name.startswith(".") for model in _versions(folder / name)]
    if not found:
        raise UnusableModel(
            f"model repository {folder} has no <name>/<version>/{MODEL_FILE}; export a checkpoint with strip-mlp-export"
        )
    found.sort(key=lambda model: (model.name, -model.version))
    return {name: list(files) for name, files in groupby(found, key=lambda model: model.name)}


def _versions(folder: Path) -> Iterator[ModelFile]:
    """What a folder of the repository has; nothing if it cannot be read and its name is no model's."""
    is_models = re.fullmatch(MODEL_NAME_PATTERN, folder.name) is not None
    for version in _look(os.listdir, folder, needed=is_models) or ():
        if version.startswith("."):
            continue
        is_version = is_models and re.fullmatch(VERSION_PATTERN, version) is not None
        path = folder / version / MODEL_FILE
        stamp = _look(Stamp.of, path, needed=is_version)
        if stamp is None:
            continue
        if not is_version:
            raise UnusableModel(
                f"{path} is not at <name>/<version>/{MODEL_FILE}, with a name of letters, digits, '.', '_' and '-' and "
                "a whole number from 1 without leading zeros as version"
            )
        yield ModelFile(folder.name, int(version), path, stamp)


def _look(read: Callable[[Path], Found], path: Path, *, needed: bool = True) -> Found | None:
    """What is read of a path; None if nothing is there, or if it cannot be read and is not needed."""
    try:
        return read(path)
    except OSError as error:
        if error.errno in NOTHING_THERE or not needed:
            return None
        raise UnusableModel(
            f"{path} cannot be read: {error.strerror}; folders and files of models have to be readable for the user "
            "that the service runs as"
        ) from error
