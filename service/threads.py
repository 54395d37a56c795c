"""Threads in which models are opened and run, as that blocks its caller. One that is stuck keeps no process alive."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

logger = logging.getLogger(__name__)

Job = Callable[[], None]

Made = TypeVar("Made")

JOIN_SECONDS = 5
"""How long closing waits for a thread that may be stuck in a library."""


class Threads:
    """A fixed number of threads.

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


async def in_thread(make: Callable[[], Made], name: str) -> Made:
    """What is made in a thread of its own, or raised there. Unlike `asyncio.to_thread`, ending does not wait for it."""
    made: Future[Made] = Future()
    made.set_running_or_notify_cancel()  # so that it can be told even when nobody waits any more

    def work() -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # whatever it is, it is the caller's
            made.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await asyncio.wrap_future(made)
