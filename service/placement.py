"""Keeps runs from sharing a core, and the event loop from sharing one with a run, while another core has none.

A trace of sched_switch, on two cores with 32 clients, showed two runs on one core for up to 20 ms while the other was
idle. When Linux wakes a thread it looks for an idle core only while not too many are busy (SIS_UTIL in
kernel/sched/fair.c), which would explain it.
"""

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

logger = logging.getLogger(__name__)

current_core = ctypes.PyDLL(None).sched_getcpu
"""The number of the core that the calling thread is on (sched_getcpu(3))."""


class Placement:
    """Where runs are, and who moves away from whom. The kernel's choice stands where nobody is in the way.

    A run is bound to its core until it ends. The event loop is moved and not bound, as threads and processes that it
    starts would be bound as well.

    Args:
        cores: how many the process is meant to use. If it may use more, as under a CPU quota or beside other workers,
            others that are not seen here choose among the same ones, and nothing is moved.
    """

    def __init__(self, cores: int) -> None:
        self._active = 1 < cores == len(os.sched_getaffinity(0))
        self._with_run: set[int] = set()
        self._choice = Lock()

    @contextmanager
    def run(self) -> Iterator[None]:
        """The block is a run, and its thread has a core without another one, if there is any."""
        allowed = os.sched_getaffinity(0)
        core = self._take(allowed) if self._active else None
        if core is None:
            yield
            return
        _move({core})
        try:
            yield
        finally:
            self._with_run.discard(core)
            _move(allowed)

    def make_way(self) -> None:
        """Move the calling thread off a core with a run, if there is one without."""
        if self._with_run and current_core() in self._with_run:
            allowed = os.sched_getaffinity(0)
            if others := allowed - self._with_run:
                _move(others)
                _move(allowed)

    def _take(self, allowed: set[int]) -> int | None:
        with self._choice:
            free = allowed - self._with_run
            if not free:
                return None
            here = current_core()
            core = here if here in free else min(free)
            self._with_run.add(core)
            return core


def _move(cores: set[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:  # a control group may have lost them meanwhile, and the kernel has found others
        logger.warning("a thread could not be moved to cores %s: %s", sorted(cores), error)
