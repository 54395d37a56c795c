"""The models being served: found by name, counted while requests use them, swapped as a whole."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from service.admission import Admission
from service.artifact import Artifact
from service.batching import BatchQueue
from service.decoders import Decoders
from service.errors import BadRequest, ModelNotFound, NotReady
from service.metrics import Metrics, ModelMetrics
from service.repository import ModelFile
from service.running import Runner
from service.scheduling import Scheduler
from service.settings import Settings
from service.tuning import BatchTime

logger = logging.getLogger(__name__)

Key = tuple[str, int]
"""Name and version."""


@dataclass(eq=False)
class ServedModel:
    """One version of a model, ready to classify. Belongs to the event loop."""

    file: ModelFile
    artifact: Artifact
    curve: Sequence[BatchTime]
    queue: BatchQueue
    runners: Sequence[Runner]
    scheduler: Scheduler
    """What its runners are attached to."""
    admission: Admission
    metrics: ModelMetrics
    _users: int = 0
    _unused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> Key:
        return self.file.name, self.file.version

    @property
    def provider(self) -> str:
        """The execution provider that its sessions report."""
        return self.runners[0].provider

    def retry_after(self) -> int:
        """Whole seconds until half of what is in work is done."""
        return self.admission.seconds_until(self.admission.in_work // 2)

    def require_working(self) -> None:
        """Raise NotReady if no session works."""
        if all(runner.broken for runner in self.runners):
            raise NotReady(f"model {self.file.name} version {self.file.version} fails and is being opened anew")

    def __enter__(self) -> Self:
        """Keep it loaded meanwhile, whatever becomes of its file."""
        self._users += 1
        self._unused.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if self._users == 0:
            self._unused.set()

    async def unload(self) -> None:
        """Wait until no request uses it, then let go of sessions and threads."""
        if self._users:
            await self._unused.wait()
        await self.close()
        logger.info("unloaded %s version %d", *self.key)

    async def close(self) -> None:
        """Let go of sessions and threads, whoever may still wait for an answer."""
        for runner in self.runners:
            await self.scheduler.detach(runner)
            await runner.close()


class Models:
    """Every model that is served, and why others are not.

    Args:
        settings: the default model, and how long a job may take.
        metrics: where the models are described.
        scheduler: what decodes and runs.
        decoders: the processes that decode.
    """

    def __init__(self, settings: Settings, metrics: Metrics, scheduler: Scheduler, decoders: Decoders) -> None:
        self._settings = settings
        self._metrics = metrics
        self._scheduler = scheduler
        self._decoders = decoders
        self._served: dict[Key, ServedModel] = {}
        self._newest: dict[str, ServedModel] = {}
        self.unready: str | None = "models are being loaded"
        """Why nothing can be classified at all; None once every model was loaded."""
        self.draining = False
        """Whether the service is about to end; requests are still answered."""
        self.errors: Mapping[Key, str] = {}
        """What is in the repository and cannot be loaded."""
        self.unloaded: set[str] = set()
        """Names of models that are kept out, whatever the repository holds of them."""
        self.repository_error: str | None = None
        """Why the repository cannot be read, which leaves everything as it was."""

    def require_ready(self) -> None:
        """Raise NotReady, saying why, unless every model can answer and more requests are welcome."""
        if self.draining:
            raise NotReady("the service is shutting down")
        if self.unready is not None:
            raise NotReady(self.public(self.unready))
        if self.unloaded and not self._served:
            raise NotReady("every model has been unloaded")
        for model in self._served.values():
            model.require_working()
        if self._decoders.failure is not None:
            raise NotReady(self._decoders.failure)
        if self._scheduler.longest_job > self._settings.stall_seconds:
            raise NotReady(f"a run or a decode has not ended for {self._scheduler.longest_job:.0f} seconds")

    @property
    def served(self) -> list[ServedModel]:
        """By name and version, the newest version of each last."""
        return list(self._served.values())

    def use(self, name: str | None, version: int | None) -> ServedModel:
        """The model of a request that names it, or leaves the name, the version or both open.

        Entered, it stays loaded: a request keeps the model that it started with, even if that is replaced meanwhile.

        Raises:
            NotReady: models are still loading, or the service has ended.
            BadRequest: no name was given, and several models are served without a default.
            ModelNotFound: no such model or version is served.
        """
        if self.unready is not None:
            raise NotReady(self.public(self.unready))
        name = name or self._settings.default_model
        if name is None:
            if not self._newest:
                raise NotReady("every model has been unloaded")
            if len(self._newest) > 1:
                raise BadRequest(f"several models are served, name one with ?model=: {', '.join(self._newest)}")
            name = next(iter(self._newest))
        newest = self._newest.get(name)
        if newest is not None and version in (None, newest.file.version):
            return newest
        versions = [number for served, number in self._served if served == name]
        if not versions:
            raise ModelNotFound(f"no model '{name}' is served; there are {', '.join(self._newest) or 'none'}")
        if version not in versions:
            raise ModelNotFound(
                f"model '{name}' has no version {version}; there are {', '.join(str(number) for number in versions)}"
            )
        return self._served[name, version]

    def replace(self, served: Mapping[Key, ServedModel], errors: Mapping[Key, str]) -> list[ServedModel]:
        """Serve these from now on. Returns those that are served no more, for the caller to unload."""
        before, self._served = self._served, {key: served[key] for key in sorted(served)}
        self._newest = {name: model for (name, _), model in self._served.items()}
        for key in self.errors.keys() - errors.keys():
            self._metrics.forget(self._metrics.model_load_failed, key[0], str(key[1]))
        for name, number in errors:
            self._metrics.model_load_failed.labels(name, str(number)).set(1)
        self.errors = errors
        retired = [model for model in before.values() if self._served.get(model.key) is not model]
        for model in retired:
            self._metrics.forget(self._metrics.model_info, *_info(model))
            self._metrics.forget(self._metrics.model_parity_error, model.file.name, str(model.file.version))
        for name in {name for name, _ in before} - self._newest.keys():
            self._metrics.forget(self._metrics.queue_limit, name)
            self._metrics.forget(self._metrics.queue_images, name)
        for model in self.served:
            self._describe(model)
        return retired

    def public(self, message: str) -> str:
        """As clients are told it: without where the repository lies, which the log says."""
        folder = str(self._settings.models)
        return message.replace(f"{folder}/", "").replace(folder, "(--models)")

    def update_gauges(self) -> None:
        """Tell the metrics how things stand now."""
        try:
            self.require_ready()
        except NotReady:
            self._metrics.ready.set(0)
        else:
            self._metrics.ready.set(1)
        self._metrics.decode_busy_threads.set(self._scheduler.decoding)
        for name in self._newest:
            served = [model for model in self.served if model.file.name == name]
            self._metrics.queue_images.labels(name).set(sum(model.admission.in_work for model in served))
            self._metrics.queue_limit.labels(name).set(sum(model.admission.limit for model in served))

    def _describe(self, model: ServedModel) -> None:
        name, version = model.key
        self._metrics.model_info.labels(*_info(model)).set(1)
        assert model.artifact.parity is not None  # required on loading
        error = max(row.max_abs_logit_error for row in model.artifact.parity.rows)
        self._metrics.model_parity_error.labels(name, str(version)).set(error)


def _info(model: ServedModel) -> tuple[str, ...]:
    name, version = model.key
    return name, str(version), model.provider, model.artifact.precision, model.artifact.checkpoint_sha256
