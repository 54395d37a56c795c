"""Threads in which models run, as a run blocks its caller."""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger(__name__)

Job = Callable[[], None]

JOIN_SECONDS = 5
"""How long closing waits for a thread that may be stuck in a library."""


class Threads:
    """A fixed number of threads. Unlike those of `concurrent.futures`, one that is stuck keeps no process alive.

    Args:
        number: how many.
        name: their names' beginning.
    """

    def __init__(self, number: int, name: str) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{place}", daemon=True) for place in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Do this, first come, first served. It should not raise."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the threads once they are through with what was submitted."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:  # a thread that died of one job would be missing for all others
                logger.critical("a run failed in a way that nobody foresaw", exc_info=True)
            del job  # lets go of its pictures while the thread waits
