"""Keeps what is served in step with the repository: a version is loaded beside the old one, then swapped in."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from multiprocessing import parent_process
from typing import Self

from service.errors import ModelNotFound, StartupError, UnusableModel
from service.keys import Keys
from service.loading import load_model
from service.metrics import Metrics
from service.models import Key, Models, ServedModel
from service.repository import ModelFile, Stamp, find_models
from service.scheduling import Scheduler
from service.settings import Settings

logger = logging.getLogger(__name__)


class Reloader:
    """Loads the models in the background, then watches the repository. Use as an asynchronous context manager.

    Args:
        settings: which repository, how many versions, how often to look.
        models: what to keep up to date.
        scheduler: what takes the models' batches.
        metrics: where the models' series are.
        keys: read anew with every look, if there are any.
        on_failure: called once if a model cannot be served at the start; the service never gets ready then.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        scheduler: Scheduler,
        metrics: Metrics,
        keys: Keys | None,
        on_failure: Callable[[StartupError], None],
    ) -> None:
        self._settings = settings
        self._models = models
        self._scheduler = scheduler
        self._metrics = metrics
        self._keys = keys
        self._on_failure = on_failure
        self._one_at_a_time = asyncio.Lock()
        self._asked = asyncio.Event()
        self.started = asyncio.Event()
        """Whether the first look is over: every model is loaded, or the start has failed."""
        self._failed: dict[Key, tuple[Stamp, str]] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._load_and_watch(), name="models")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None  # entered
        tasks = [self._watching, *self._unloading]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._models.unready = "the service is shutting down"
        for model in self._models.served:
            await model.close()

    def ask(self) -> None:
        """Look at the repository soon, at files that could not be loaded before too."""
        self._asked.set()

    async def reload_everywhere(self) -> None:
        """Look at the repository now, and have the other worker processes look, which may take them longer."""
        await self.reload(retry=True)
        supervisor = parent_process()
        if supervisor is not None:
            assert supervisor.pid is not None  # it has started us
            os.kill(supervisor.pid, signal.SIGHUP)

    async def load(self, name: str) -> None:
        """Look for a model in the repository now, and serve it.

        Raises:
            ModelNotFound: it is not there.
            UnusableModel: it is there, but cannot be served.
        """
        self._models.unloaded.discard(name)
        await self.reload(retry=True)
        messages = [message for (failed, _), message in self._models.errors.items() if failed == name]
        if messages or self._models.repository_error is not None:
            told = messages[0] if messages else str(self._models.repository_error)
            raise UnusableModel(self._models.public(told))
        self._require_served(name)

    async def unload(self, name: str) -> None:
        """Serve a model no more, until it is loaded. Raises ModelNotFound if it is not served."""
        self._require_served(name)
        self._models.unloaded.add(name)
        await self.reload(retry=False)

    def _require_served(self, name: str) -> None:
        served = {model.file.name for model in self._models.served}
        if name not in served:
            raise ModelNotFound(f"no model '{name}' is served; there are {', '.join(sorted(served)) or 'none'}")

    async def reload(self, *, retry: bool) -> None:
        """Look at the repository now, and serve what it holds.

        Args:
            retry: try files again that could not be loaded and have not changed since.
        """
        async with self._one_at_a_time:
            if self._keys is not None:
                await asyncio.to_thread(self._keys.refresh)
            if retry:
                self._failed.clear()
            try:
                found = await asyncio.to_thread(find_models, self._settings.models)
            except UnusableModel as error:
                if self._models.repository_error != str(error):
                    logger.error("the models stay as they are: %s", error)
                self._models.repository_error = str(error)
                self._metrics.repository_error.set(1)
                return
            self._models.repository_error = None
            self._metrics.repository_error.set(0)
            before = {model.key: model for model in self._models.served}
            served: dict[Key, ServedModel] = {}
            wanted: set[Key] = set()
            for name, files in found.items():
                if name in self._models.unloaded:
                    continue
                newest: list[ServedModel] = []
                for file in files:
                    wanted.add((file.name, file.version))
                    model = await self._current(file, before)
                    if model is not None:
                        newest.append(model)
                    if len(newest) == self._settings.keep_versions:
                        break
                # Files that cannot be loaded drive nothing out, even if those of the served versions are gone.
                newest = newest or [model for model in before.values() if model.file.name == name]
                served |= {model.key: model for model in newest}
            self._failed = {key: failure for key, failure in self._failed.items() if key in wanted}
            self._swap(served)

    async def _current(self, file: ModelFile, before: dict[Key, ServedModel]) -> ServedModel | None:
        """The file's model, loaded if it is new; if that fails, what was served in its place."""
        key = file.name, file.version
        old = before.get(key)
        if old is not None and old.file.stamp == file.stamp:
            self._failed.pop(key, None)
            return old
        failure = self._failed.get(key)
        if failure is not None and failure[0] == file.stamp:
            return old
        try:
            model = await self._load(file)
        except StartupError as error:
            self._metrics.model_loads.labels(file.name, "failed").inc()
            logger.error("%s version %d is not served: %s", *key, error)
            self._failed[key] = file.stamp, str(error)
            return old
        except Exception as error:  # whatever it is, the models that work must go on
            self._metrics.model_loads.labels(file.name, "failed").inc()
            logger.exception("loading %s failed in a way that nobody foresaw", file.path)
            self._failed[key] = file.stamp, f"loading {file.path} failed: {error}"
            return old
        self._metrics.model_loads.labels(file.name, "ok").inc()
        self._failed.pop(key, None)
        return model

    async def _load(self, file: ModelFile) -> ServedModel:
        model = await load_model(file, self._settings, self._scheduler, self._metrics)
        if not file.unchanged:
            await model.close()
            raise UnusableModel(f"{file.path} changed while it was loaded")
        return model

    def _swap(self, served: dict[Key, ServedModel]) -> None:
        retired = self._models.replace(served, {key: message for key, (_, message) in self._failed.items()})
        for model in retired:
            task = asyncio.create_task(model.unload(), name=f"unload {model.file.path}")
            self._unloading.add(task)
            task.add_done_callback(self._on_unloaded)

    def _on_unloaded(self, task: asyncio.Task[None]) -> None:
        self._unloading.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("%s failed", task.get_name(), exc_info=error)

    async def _load_and_watch(self) -> None:
        try:
            await self.reload(retry=False)
            self._check_start()
        except StartupError as error:
            self._models.unready = str(error)
            self._on_failure(error)
            return
        except Exception as error:  # nothing awaits this task, so whatever it is must be told here
            logger.critical("loading the models failed", exc_info=error)
            self._models.unready = f"loading the models failed: {error}"
            self._on_failure(StartupError(self._models.unready))
            return
        else:
            self._models.unready = None
        finally:
            self.started.set()
        while True:
            try:
                async with asyncio.timeout(self._settings.poll_seconds or None):
                    await self._asked.wait()
            except TimeoutError:
                pass
            retry = self._asked.is_set()
            self._asked.clear()
            try:
                await self.reload(retry=retry)
            except Exception:  # whatever it is, the next look may go better
                logger.exception("looking at the model repository failed")

    def _check_start(self) -> None:
        """Raise StartupError unless every model that is there can be served in some version."""
        if self._models.repository_error is not None:
            raise UnusableModel(self._models.repository_error)
        names = {model.file.name for model in self._models.served}
        for (name, _), message in self._models.errors.items():
            if name not in names:
                raise UnusableModel(message)
        default = self._settings.default_model
        if default is not None and default not in names:
            raise StartupError(f"--default-model {default} is not in the model repository {self._settings.models}")
