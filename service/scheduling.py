"""What the cores do next: decode a picture, or run a batch."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

from service.placement import Placement
from service.running import Runner
from service.threads import Threads
from service.work import Item

logger = logging.getLogger(__name__)

Decode = Callable[[], Coroutine[Any, Any, None]]
"""Has one picture decoded."""


class Scheduler:
    """A fixed number of slots for decodes and for runs on the CPU, each given to what is most useful next.

    That is: a batch that is full or has gathered for long enough; else the next picture to be decoded; else whatever
    decoded pictures there are, if a core is free for them. So on an idle core nothing waits, decoding goes first while
    it fills a batch, and decoding and inference together take as many cores as were meant for them, not as many each.
    What gathers while all cores are busy waits for a timer at most, if nothing that ends gives it a core before.

    Runs on a GPU take no slot, and each such session has a thread of its own.

    Belongs to the event loop, in which nothing decodes or runs: decoders are processes, and runs have threads.

    Args:
        slots: how many; one more than cores hides that decoders wait for pictures.
        cores: of the processor. While as many slots are taken, pictures gather instead of starting a small batch
            beside them: with eight clients of small pictures on two cores that took 2.95 in place of 3.41 ms of CPU
            time for each.
    """

    def __init__(self, slots: int, cores: int) -> None:
        self.slots = slots
        self._enough = min(slots, cores)
        """Slots that keep the cores busy."""
        self._to_decode: deque[Decode] = deque()
        self._runners: dict[Runner, Threads] = {}
        self._cores = Threads(slots, "run")
        self._placement = Placement(cores)
        self._busy_since: dict[object, float] = {}
        """Every decode and run in work, those that began first in front."""
        self._decoding: set[asyncio.Task[None]] = set()
        self._running = 0
        """Slots of runs on the cores."""
        self._closed = False
        self._again: asyncio.TimerHandle | None = None
        """For when what gathers becomes due while nothing else happens."""
        self._again_at = math.inf
        """On the clock of `time.perf_counter`."""

    def decode(self, jobs: Iterable[Decode]) -> None:
        """Do these, first come, first served. They should not raise."""
        self._to_decode.extend(jobs)
        self._start()

    def attach(self, runner: Runner, *, on_cores: bool) -> None:
        """Take batches from the runner's queue; they run on the cores or leave them alone."""
        if all(runner.queue is not each.queue for each in self._runners):
            runner.queue.listen(self._start)
        self._runners[runner] = self._cores if on_cores else Threads(1, "run-gpu")

    async def detach(self, runner: Runner) -> None:
        """Take no more of them."""
        threads = self._runners.pop(runner)
        if threads is not self._cores:
            await asyncio.to_thread(threads.close)

    @property
    def longest_job(self) -> float:
        """Seconds since the start of the run or decode that has been going on for longest; 0 when there is none."""
        since = next(iter(self._busy_since.values()), None)
        return 0 if since is None else perf_counter() - since

    @property
    def decoding(self) -> int:
        """How many pictures are being decoded."""
        return len(self._decoding)

    async def close(self) -> None:
        """End the threads once they are through with what they are doing. What waits is left undone."""
        self._closed = True
        self._to_decode.clear()
        if self._again is not None:
            self._again.cancel()
        for task in self._decoding:
            task.cancel()
        await asyncio.to_thread(self._cores.close)

    @property
    def _free(self) -> int:
        """Slots. None where a run of several threads has begun with fewer."""
        return max(0, self.slots - len(self._decoding) - self._running)

    def _start(self) -> None:
        """Give every free slot, and every free GPU, something to do."""
        if self._closed:
            return
        self._placement.make_way()
        while self._start_run() or self._start_decode():
            pass
        waiting = [runner.queue.due_at for runner in self._runners if runner.could_run and self._on_cores(runner)]
        due_at = min(waiting, default=math.inf)
        if self._free and due_at < self._again_at:
            if self._again is not None:
                self._again.cancel()
            self._again_at = due_at
            seconds = max(0, due_at - perf_counter())
            self._again = asyncio.get_running_loop().call_later(seconds, self._start_again)

    def _start_again(self) -> None:
        self._again, self._again_at = None, math.inf
        self._start()

    def _start_run(self) -> bool:
        able = [runner for runner in self._runners if runner.could_run and (self._free or not self._on_cores(runner))]
        if not able:
            return False
        now = perf_counter()
        due = [runner for runner in able if runner.queue.is_due(now)]
        if self._to_decode or self.slots - self._free >= self._enough:
            able = [runner for runner in able if runner in due or not self._on_cores(runner)]
        for runner in sorted(able, key=lambda runner: (runner not in due, runner.queue.oldest)):
            sharers = runner.capacity - runner.running
            if self._on_cores(runner):
                sharers = min(sharers, math.ceil(self._free / runner.threads))
            batch = runner.queue.take(sharers)
            if batch:
                self._run(runner, batch)
                return True
        return False

    def _run(self, runner: Runner, batch: list[Item]) -> None:
        run, slots = object(), runner.threads if self._on_cores(runner) else 0
        self._busy_since[run] = perf_counter()
        runner.running += 1
        self._running += slots
        ended = partial(self._ended, runner, run, slots)
        loop = asyncio.get_running_loop()
        has_one_core = self._on_cores(runner) and runner.threads == 1
        place = self._placement.run() if has_one_core else nullcontext()

        def in_thread() -> None:
            try:
                with place:
                    runner.run(batch)
            finally:
                loop.call_soon_threadsafe(ended)

        self._runners[runner].submit(in_thread)

    def _ended(self, runner: Runner, run: object, slots: int) -> None:
        del self._busy_since[run]
        runner.running -= 1
        self._running -= slots
        self._start()

    def _on_cores(self, runner: Runner) -> bool:
        return self._runners[runner] is self._cores

    def _start_decode(self) -> bool:
        if not self._to_decode or not self._free:
            return False
        task = asyncio.get_running_loop().create_task(self._decode(self._to_decode.popleft()))
        self._decoding.add(task)
        self._busy_since[task] = perf_counter()
        return True

    async def _decode(self, job: Decode) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await job()
        except asyncio.CancelledError:
            raise
        except BaseException:  # one that went on would end the event loop
            logger.critical("a decode failed in a way that nobody foresaw", exc_info=True)
        finally:
            self._decoding.discard(task)
            del self._busy_since[task]
            self._start()
