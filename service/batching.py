"""The queue in front of a session: pictures that wait together run together.

An idle session takes what is there at once; while it runs, pictures gather up to the batch limit. Nothing waits for
a timer. Pictures are queued one by one, so a request with more of them than the limit is split by itself.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from service.errors import InferenceFailed, NotReady, ServiceError
from service.metrics import Metrics
from service.preprocessing import Pixels
from service.session import Scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waiting:
    pixels: Pixels
    answer: asyncio.Future[Scores]
    since: float


class BatchQueue:
    """Feeds one session from one event loop. Use as an asynchronous context manager.

    Args:
        run: classifies a batch, uint8 (batch, size, size, 3); called in a thread of the queue's own, one call at
            a time.
        limit: most pictures in one call.
        name: the model's, for messages and metrics.
        metrics: where batch sizes and times are counted.
    """

    def __init__(self, run: Callable[[Pixels], Scores], *, limit: int, name: str, metrics: Metrics) -> None:
        self._run = run
        self._limit = limit
        self._name = name
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"infer-{name}")
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "BatchQueue":
        self._worker = asyncio.create_task(self._work(), name=f"batches of {self._name}")
        self._worker.add_done_callback(self._on_worker_done)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._worker is not None  # entered
        self._worker.cancel()
        await asyncio.wait([self._worker])
        self._fail_waiting(NotReady(f"model {self._name} is being unloaded"))
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def alive(self) -> bool:
        """Whether submitted pictures will be looked at."""
        return self._worker is not None and not self._worker.done()

    def __len__(self) -> int:
        """Pictures that wait for the session."""
        return len(self._waiting)

    async def submit(self, pixels: Pixels) -> Scores:
        """Classify one picture, uint8 (size, size, 3), to scores (classes,).

        The picture of a call that is cancelled while it waits never reaches the session.

        Raises:
            InferenceFailed: the session raised on this picture, alone in a batch.
            NotReady: the queue has ended.
        """
        if not self.alive:
            raise NotReady(f"model {self._name} is not running")
        answer: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(pixels, answer, perf_counter()))
        self._arrived.set()
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                continue
            started = perf_counter()
            try:
                rows = await loop.run_in_executor(self._thread, self._run_batch, batch)
            except BaseException:  # cancelled or dying; nobody else knows of this batch any more
                _fail(batch, NotReady(f"model {self._name} stopped running"))
                raise
            seconds = perf_counter() - started
            self._metrics.batch_size.labels(self._name).observe(len(batch))
            self._metrics.stage_seconds.labels(self._name, "infer").observe(seconds)
            for each, scores in zip(batch, rows, strict=True):
                self._metrics.stage_seconds.labels(self._name, "queue").observe(started - each.since)
                if isinstance(scores, InferenceFailed):
                    _fail([each], scores)
                elif not each.answer.done():
                    each.answer.set_result(scores)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._limit:
            each = self._waiting.popleft()
            if not each.answer.done():
                batch.append(each)
        if not self._waiting:
            self._arrived.clear()
        return batch

    def _run_batch(self, batch: list[_Waiting]) -> Sequence[Scores | InferenceFailed]:
        """Run a batch; one that fails is run again picture by picture, so that only the culprit's answer is lost."""
        scores = self._try(batch)
        if scores is not None:
            return scores
        if len(batch) == 1:
            return [InferenceFailed(f"model {self._name} failed on this picture")]
        return [row for each in batch for row in self._run_batch([each])]

    def _try(self, batch: list[_Waiting]) -> list[Scores] | None:
        try:
            scores = self._run(np.stack([each.pixels for each in batch]))
            return [scores.row(index) for index in range(len(batch))]
        except Exception:  # whatever a runtime raises belongs to these pictures, not to the next ones
            logger.exception("model %s failed on a batch of %d", self._name, len(batch))
            return None

    def _on_worker_done(self, worker: asyncio.Task[None]) -> None:
        if not worker.cancelled() and worker.exception() is not None:
            logger.critical("the batching of model %s died", self._name, exc_info=worker.exception())
            self._fail_waiting(NotReady(f"the batching of model {self._name} died"))

    def _fail_waiting(self, error: NotReady) -> None:
        _fail(self._waiting, error)
        self._waiting.clear()


def _fail(pictures: Iterable[_Waiting], error: ServiceError) -> None:
    for each in pictures:
        if not each.answer.done():
            each.answer.set_exception(error)
