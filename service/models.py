"""The models being served: loaded once in the background, proven and warmed before the service calls itself ready."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np

from service.batching import BatchQueue
from service.errors import BadRequest, ModelNotFound, NotReady, Overloaded, StartupError, UnusableModel
from service.metrics import Metrics
from service.repository import ModelFile, find_models
from service.session import Session
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass
class ServedModel:
    """One version of a model, ready to classify."""

    file: ModelFile
    session: Session
    queue: BatchQueue
    queue_limit: int
    in_work: int = 0
    """Pictures that were admitted and not yet answered."""

    def admit(self, pictures: int) -> None:
        """Make room for a request's pictures; `release` gives it back.

        Raises:
            Overloaded: with these, more than the limit would be in work.
        """
        if self.in_work + pictures > self.queue_limit:
            raise Overloaded(
                f"model {self.file.name} has {self.in_work} pictures in work, {pictures} more would pass the limit of "
                f"{self.queue_limit}; try again shortly"
            )
        self.in_work += pictures

    def release(self, pictures: int) -> None:
        self.in_work -= pictures


class Models:
    """Loads every model of the repository and finds them by name. Use as an asynchronous context manager.

    Args:
        settings: which repository, device and limits.
        metrics: where the models are described.
        on_failure: called once if a model cannot be served; the service never gets ready then.
    """

    def __init__(self, settings: Settings, metrics: Metrics, on_failure: Callable[[StartupError], None]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._on_failure = on_failure
        self._served: dict[tuple[str, int], ServedModel] = {}
        self._queues = AsyncExitStack()
        self._loading: asyncio.Task[None] | None = None
        self._reason: str | None = "models are being loaded"

    async def __aenter__(self) -> Self:
        self._loading = asyncio.create_task(self._load(), name="load models")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._loading is not None  # entered
        self._loading.cancel()
        await asyncio.wait([self._loading])
        self._reason = "the service is shutting down"
        await self._queues.aclose()

    def require_ready(self) -> None:
        """Raise NotReady, saying why, unless every model can answer."""
        dead = next((model.file.name for model in self.served if not model.queue.alive), None)
        reason = self._reason or (f"the batching of model {dead} died" if dead else None)
        if reason:
            raise NotReady(reason)

    @property
    def served(self) -> list[ServedModel]:
        """By name and version, the newest version of each last."""
        return list(self._served.values())

    def find(self, name: str | None, version: int | None) -> ServedModel:
        """The model of a request that names it, or leaves the name, the version or both open.

        Raises:
            NotReady: models are still loading, or one has died.
            BadRequest: no name was given, and several models are served without a default.
            ModelNotFound: no such model or version is served.
        """
        self.require_ready()
        names = sorted({served for served, _ in self._served})
        name = name or self._settings.default_model or (names[0] if len(names) == 1 else None)
        if name is None:
            raise BadRequest(f"several models are served, name one with ?model=: {', '.join(names)}")
        versions = [number for served, number in self._served if served == name]
        if not versions:
            raise ModelNotFound(f"no model '{name}' is served; there are {', '.join(names)}")
        if version is None:
            version = max(versions)
        if version not in versions:
            raise ModelNotFound(
                f"model '{name}' has no version {version}; there are {', '.join(str(number) for number in versions)}"
            )
        return self._served[name, version]

    async def _load(self) -> None:
        try:
            for file in find_models(self._settings.models):
                session = await asyncio.to_thread(_open_and_warm, file, self._settings)
                await self._serve(file, session)
            self._check_default()
        except StartupError as error:
            self._fail(error)
        except Exception as error:  # nothing awaits this task, so whatever it is must be told here
            logger.critical("loading the models failed", exc_info=error)
            self._fail(StartupError(f"loading the models failed: {error}"))
        else:
            self._reason = None

    def _check_default(self) -> None:
        default = self._settings.default_model
        if default is not None and default not in {name for name, _ in self._served}:
            raise StartupError(f"--default-model {default} is not in the model repository {self._settings.models}")

    def _fail(self, error: StartupError) -> None:
        self._reason = str(error)
        self._on_failure(error)

    async def _serve(self, file: ModelFile, session: Session) -> None:
        artifact, limit = session.artifact, self._settings.max_queue
        queue = BatchQueue(session.run, limit=self._settings.max_batch, name=file.name, metrics=self._metrics)
        await self._queues.enter_async_context(queue)
        model = ServedModel(file, session, queue, limit)
        self._served[file.name, file.version] = model
        self._metrics.queue_limit.labels(file.name).inc(limit)
        self._metrics.queue_images.labels(file.name).set_function(
            lambda: sum(served.in_work for served in self.served if served.file.name == file.name)
        )
        self._metrics.model_info.labels(
            file.name, str(file.version), session.provider, artifact.precision, artifact.checkpoint_sha256
        ).set(1)
        assert artifact.parity is not None  # required on loading
        error = max(row.max_abs_logit_error for row in artifact.parity.rows)
        self._metrics.model_parity_error.labels(file.name, str(file.version)).set(error)
        logger.info("serving %s version %d on %s", file.name, file.version, session.provider)


def _open_and_warm(file: ModelFile, settings: Settings) -> Session:
    session = Session.open(file.path, device=settings.device, threads=settings.threads)
    session.artifact.require_parity(str(file.path))
    size = session.artifact.architecture.image_size
    for batch in {1, settings.max_batch}:
        try:
            session.run(np.zeros((batch, size, size, 3), dtype=np.uint8))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UnusableModel(f"{file.path} failed to run a batch of {batch} pictures: {error}") from error
    return session
