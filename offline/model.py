"""A model of the repository, opened as the service opens it: proven, its batch limit measured."""

from dataclasses import dataclass
from pathlib import Path

from offline.errors import OfflineError
from service.artifact import Artifact
from service.errors import StartupError
from service.loading import Opened, open_sessions
from service.repository import ModelFile, Stamp, find_models
from service.settings import Settings


@dataclass(frozen=True)
class Model:
    """An opened model."""

    name: str
    version: int
    settings: Settings
    """How it was opened, and how pictures are decoded for it."""
    opened: Opened

    @property
    def artifact(self) -> Artifact:
        return self.opened.session.artifact

    @property
    def batch_limit(self) -> int:
        """Most pictures in one run, and so the best number."""
        return self.opened.limit


def open_model(wanted: str | None, settings: Settings) -> Model:
    """Open a model.

    Args:
        wanted: a name in the repository `settings.models`, of which the newest version is taken; `name:version`; or the
            path of an ONNX file. None: the only one, or `settings.default_model`.
        settings: the service's.

    Raises:
        OfflineError: there is no such model, or it cannot be used.
    """
    try:
        file = _file(wanted or settings.default_model, settings.models)
        return Model(file.name, file.version, settings, open_sessions(file, settings)[0])
    except StartupError as error:
        raise OfflineError(str(error)) from error


def _file(wanted: str | None, repository: Path) -> ModelFile:
    if wanted is not None and wanted.endswith(".onnx"):
        path = Path(wanted)
        try:
            return ModelFile(path.stem, 1, path, Stamp.of(path))
        except OSError as error:
            raise OfflineError(f"model file {path} cannot be read: {error.strerror}") from error
    found = find_models(repository)
    names = ", ".join(found)
    if wanted is None:
        if len(found) > 1:
            raise OfflineError(f"{repository} has several models, name one with --model: {names}")
        (files,) = found.values()
        return files[0]
    name, _, version = wanted.partition(":")
    if name not in found:
        raise OfflineError(f"{repository} has no model '{name}'; there are {names}")
    for file in found[name]:
        if version in ("", str(file.version)):
            return file
    versions = ", ".join(str(file.version) for file in found[name])
    raise OfflineError(f"model '{name}' has no version '{version}'; there are {versions}")
