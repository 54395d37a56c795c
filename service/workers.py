"""The threads that do the work: decoding, and running models where both need the same cores."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter

from service.running import Runner
from service.work import Item

logger = logging.getLogger(__name__)

Decode = Callable[[], None]

JOIN_SECONDS = 5
"""How long closing waits for a thread that may be stuck in a library."""


class Workers:
    """A fixed number of threads, each taking what is most useful next.

    That is: a batch that is full or has gathered for long enough; else the next picture to be decoded; else whatever
    decoded pictures there are. So an idle session takes what is there at once, decoding goes first while it fills a
    batch, and decoding and inference together have as many threads as were asked for, not as many each.

    Args:
        threads: how many.
        name: their names' beginning.
    """

    def __init__(self, threads: int, name: str) -> None:
        self.threads = threads
        self._lock = threading.Lock()
        self._to_decode: deque[Decode] = deque()
        self._runners: list[Runner] = []
        self._idle: list[threading.Semaphore] = []
        """Of each thread that sleeps, what wakes it; the last to fall asleep is woken first, as its caches are warm."""
        self._closed = False
        self._busy_since: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self._own = {thread.ident for thread in self._threads}

    def decode(self, jobs: Iterable[Decode]) -> None:
        """Do these, first come, first served. A job must not raise."""
        with self._lock:
            before = len(self._to_decode)
            self._to_decode.extend(jobs)
            self._wake_up(len(self._to_decode) - before)

    def attach(self, runner: Runner) -> None:
        """Take batches from the runner's queue."""
        with self._lock:
            self._runners.append(runner)
        runner.queue.listen(self._wake)

    def detach(self, runner: Runner) -> None:
        """Take no more of them."""
        with self._lock:
            self._runners.remove(runner)

    @property
    def longest_job(self) -> float:
        """Seconds since the start of the run or decode that has been going on for longest; 0 when all are idle."""
        since = min(self._busy_since.copy().values(), default=None)
        return 0 if since is None else perf_counter() - since

    @property
    def decoding(self) -> int:
        """How many threads are at a decode."""
        return max(0, len(self._busy_since) - sum(runner.running for runner in self._runners))

    def close(self) -> None:
        """End the threads once they are through with what they are doing. What is queued is left undone."""
        with self._lock:
            self._closed = True
            self._wake_up(self.threads)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _wake(self) -> None:
        # A thread of our own looks for more work by itself when it is done with the present one.
        if threading.get_ident() not in self._own:
            with self._lock:
                self._wake_up(1)

    def _wake_up(self, threads: int) -> None:
        for _ in range(min(threads, len(self._idle))):
            self._idle.pop().release()

    def _work(self) -> None:
        me = threading.get_ident()
        woken = threading.Semaphore(0)
        while True:
            with self._lock:
                if self._closed:
                    return
                job = self._next()
                if job is None:
                    self._idle.append(woken)
                else:
                    self._busy_since[me] = perf_counter()
            if job is None:
                woken.acquire()
                continue
            try:
                job()
            except BaseException:  # a thread that died of one job would be missing for all others
                logger.critical("a worker's job failed in a way that nobody foresaw", exc_info=True)
            del self._busy_since[me]
            job = None  # lets go of its pictures while the thread waits

    def _next(self) -> Callable[[], None] | None:
        able = [runner for runner in self._runners if runner.could_run]
        now = perf_counter()
        due = [runner for runner in able if runner.queue.is_due(now)]
        if not due and self._to_decode:
            return self._to_decode.popleft()
        for runner in sorted(able, key=lambda runner: (runner not in due, runner.queue.oldest)):
            batch = runner.queue.take(1 + min(len(self._idle), runner.capacity - runner.running - 1))
            if batch:
                runner.running += 1
                if len(runner.queue):
                    self._wake_up(1)
                return lambda: self._run(runner, batch)
        return self._to_decode.popleft() if self._to_decode else None

    def _run(self, runner: Runner, batch: list[Item]) -> None:
        try:
            runner.run(batch)
        finally:
            with self._lock:
                runner.running -= 1
