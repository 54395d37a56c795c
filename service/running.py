"""Runs batches on a session: only a culprit fails, and a session that keeps failing is opened anew."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from service.batching import BatchQueue
from service.errors import InferenceFailed
from service.metrics import ModelMetrics
from service.preprocessing import Pixels
from service.session import Scores, Session
from service.threads import in_thread
from service.work import Item

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3
"""So many batches that failed as a whole, or of which every picture did, and the session is doubted."""

LONGEST_PAUSE_SECONDS = 60


class Runner:
    """One session of a model, and the queue that feeds it.

    Its attributes `running`, `capacity` and `threads` are for `Scheduler`, which changes `running`.

    Args:
        queue: where batches come from.
        session: what runs them.
        capacity: how many runs the session may have at once.
        threads: of each run on the CPU.
        sizes: the only batch sizes to run, ascending, others being padded to the next; None: any.
        reopen: opens the session anew.
        name: the model's, for messages.
        metrics: the model's.
    """

    def __init__(
        self,
        queue: BatchQueue,
        session: Session,
        *,
        capacity: int,
        threads: int,
        sizes: Sequence[int] | None,
        reopen: Callable[[], Session],
        name: str,
        metrics: ModelMetrics,
    ) -> None:
        self.queue = queue
        self.capacity = capacity
        self.threads = threads
        self.running = 0
        self.broken = False
        """Whether the session does not work and is being opened anew."""
        self._session = session
        self._sizes = sizes
        self._reopen = reopen
        self._name = name
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._repair: asyncio.Task[None] | None = None

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self._session.provider

    @property
    def could_run(self) -> bool:
        """Whether it would take a batch now."""
        return not self.broken and self.running < self.capacity and len(self.queue) > 0

    def run(self, batch: list[Item]) -> None:
        """Run a batch and hand every picture its result. Called in a thread, returns when it is done."""
        started = perf_counter()
        # A request that is abandoned lets go of its pixels, at any time.
        needed = [(item, pixels) for item in batch if (pixels := item.pixels) is not None]
        if not needed:
            return
        items = [item for item, _ in needed]
        raised = False

        def run(pixels: Pixels) -> Scores:
            nonlocal raised
            try:
                return self._run_padded(pixels)
            except BaseException:
                raised = True
                raise

        results: Sequence[Scores | InferenceFailed]
        try:
            results = classify_batch(run, [pixels for _, pixels in needed], self._name)
        except BaseException:
            logger.critical("running model %s failed in a way that nobody foresaw", self._name, exc_info=True)
            results = [_failure(self._name)] * len(items)
        failed = raised or all(isinstance(result, InferenceFailed) for result in results)
        self._loop.call_soon_threadsafe(self._deliver, items, results, failed, started, perf_counter())

    async def close(self) -> None:
        """Stop repairing."""
        if self._repair is not None:
            self._repair.cancel()
            await asyncio.wait([self._repair])

    def _run_padded(self, pixels: Pixels) -> Scores:
        if self._sizes is None:
            return self._session.run(pixels)
        filled = padded(pixels, self._sizes)
        self._metrics.padding.inc(len(filled) - len(pixels))
        return self._session.run(filled)

    def _deliver(
        self,
        batch: list[Item],
        results: Sequence[Scores | InferenceFailed],
        failed: bool,
        started: float,
        ended: float,
    ) -> None:
        seconds = self._metrics.stage_seconds
        self._metrics.batch_size.observe(len(batch))
        seconds["infer"].observe(ended - started)
        for item, result in zip(batch, results, strict=True):
            seconds["queue"].observe(started - item.decoded)
            item.work.record.reached("decode", item.decode_started, item.decoded)
            item.work.record.reached("queue", item.decoded, started)
            item.work.record.reached("infer", started, ended)
            item.work.settle(item, result)
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= FAILURES_IN_A_ROW and (self._repair is None or self._repair.done()):
            self._repair = asyncio.create_task(self._probe_and_repair(), name=f"repair {self._name}")
            self._repair.add_done_callback(self._on_repair_done)

    async def _probe_and_repair(self) -> None:
        try:
            await in_thread(partial(self._session.probe, self.queue.limit), "probe")
        except Exception as error:  # onnxruntime's exceptions have no common base class
            logger.error("model %s fails on blank pictures too and is opened anew: %s", self._name, error)
        else:
            logger.warning("model %s classifies blank pictures: those that came were at fault", self._name)
            self._failures = 0
            return
        self.broken = True
        pause = 1
        while self.broken:
            try:
                session = await in_thread(self._reopen, "reopen")
                await in_thread(partial(session.probe, self.queue.limit), "probe")
            except Exception:  # whatever it is, the next try may go better
                logger.exception("model %s cannot be opened anew; next try in %d s", self._name, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._session, self._failures, self.broken = session, 0, False
        logger.warning("model %s works again", self._name)
        self.queue.wake()

    def _on_repair_done(self, repair: asyncio.Task[None]) -> None:
        if not repair.cancelled() and (error := repair.exception()) is not None:
            logger.critical("the repair of model %s died", self._name, exc_info=error)


def classify_batch(
    run: Callable[[Pixels], Scores], pictures: Sequence[Pixels], name: str
) -> list[Scores | InferenceFailed]:
    """Run a batch; one that fails is run again picture by picture, so that only the culprit's answer is lost.

    What is not finite is a failure of its picture, and never an answer.

    Args:
        run: runs pixels (batch, size, size, 3); its scores may have more rows than that.
        pictures: at least one.
        name: the model's, for messages.
    """
    try:
        scores = run(np.stack(pictures))
        results = [scores.row(index) for index in range(len(pictures))]
    except Exception:  # whatever a runtime raises belongs to these pictures, not to the next ones
        logger.exception("model %s failed on a batch of %d", name, len(pictures))
    else:
        if scores.is_finite:
            return list(results)
        return [result if result.is_finite else _no_number(name) for result in results]
    if len(pictures) == 1:
        return [_failure(name)]
    return [result for each in pictures for result in classify_batch(run, [each], name)]


def padded(pixels: Pixels, sizes: Sequence[int]) -> Pixels:
    """The batch filled up with blank pictures to the next of these sizes, which ascend and of which one is enough."""
    count = len(pixels)
    missing = next(size for size in sizes if size >= count) - count
    return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), pixels.dtype)]) if missing else pixels


def _failure(name: str) -> InferenceFailed:
    return InferenceFailed(f"model {name} failed on this picture")


def _no_number(name: str) -> InferenceFailed:
    logger.error("model %s gave what is no number", name)
    return InferenceFailed(f"model {name} gave no finite number for this picture")
