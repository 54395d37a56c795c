"""Where models lie: <models>/<name>/<version>/model.onnx, version a whole number."""

import re
from dataclasses import dataclass
from pathlib import Path

from service.artifact import MODEL_NAME_PATTERN
from service.errors import UnusableModel

MODEL_FILE = "model.onnx"

VERSION_PATTERN = "[1-9][0-9]*"


@dataclass(frozen=True)
class ModelFile:
    """One version of a model on disk. The folders' names are what requests call it by."""

    name: str
    version: int
    path: Path


def find_models(folder: Path) -> list[ModelFile]:
    """Every model file of a repository, by name and version. Hidden folders are passed over.

    Raises:
        UnusableModel: the repository is missing or empty, or a folder in it cannot be a model's.
    """
    if not folder.is_dir():
        raise UnusableModel(f"model repository {folder} is not a directory; set --models to the folder of your models")
    found = []
    for path in sorted(folder.glob(f"*/*/{MODEL_FILE}")):
        name, version = path.parts[-3:-1]
        if name.startswith(".") or version.startswith("."):
            continue
        if not re.fullmatch(MODEL_NAME_PATTERN, name) or not re.fullmatch(VERSION_PATTERN, version):
            raise UnusableModel(
                f"{path} is not at <name>/<version>/{MODEL_FILE}, with a name of letters, digits, '.', '_' and '-' and "
                "a whole number from 1 without leading zeros as version"
            )
        found.append(ModelFile(name, int(version), path))
    if not found:
        raise UnusableModel(
            f"model repository {folder} has no <name>/<version>/{MODEL_FILE}; export a checkpoint with strip-mlp-export"
        )
    return sorted(found, key=lambda model: (model.name, model.version))
