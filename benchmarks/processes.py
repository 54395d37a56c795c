"""CPU time and memory of a server's whole process tree, and its end."""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterable
from signal import Signals

import psutil

PR_SET_CHILD_SUBREAPER = 36

LOOK_SECONDS = 0.25

AT_REST_CORES = 0.5
"""Servers that poll take up to a third of a core at rest (LitServe); work that is left takes at least a whole one."""

MEBIBYTE = 1 << 20

PATIENCE = 20.0
"""Seconds that a server gets to end after the signal."""


def adopt_orphans() -> None:
    """From now on a daemonised grandchild becomes this process's child, so that no part of a server leaves the tree."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(without: Iterable[int] = ()) -> list[psutil.Process]:
    """Every process below this one but those of `without`."""
    left_out = set(without)
    return [process for process in psutil.Process().children(recursive=True) if process.pid not in left_out]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """User and system time, with that of the ended children that each has waited for."""
    return _total(processes, lambda process: sum(process.cpu_times()[:4]))


def rss_mib(processes: Iterable[psutil.Process]) -> float:
    """Resident memory summed; a page that processes share counts once in each of them."""
    return _total(processes, lambda process: process.memory_info().rss) / MEBIBYTE


def pss_mib(processes: Iterable[psutil.Process]) -> float:
    """The same with a shared page counted once in all. Dear to read, so not for while the clock runs."""
    return _total(processes, lambda process: process.memory_full_info().pss) / MEBIBYTE


def _total(processes: Iterable[psutil.Process], figure: Callable[[psutil.Process], float]) -> float:
    """Summed over those of the processes that have not ended meanwhile."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += figure(process)
    return total


def machine_cpu_seconds() -> float:
    """CPU time that the whole machine has worked: all but idle, waiting and stolen time."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def own_cpu_seconds() -> float:
    """CPU time of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def wait_idle(patience: float) -> None:
    """Return when the tree is at rest: what a load left behind must not be paid by the next one."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = cpu_seconds(descendants())
        time.sleep(LOOK_SECONDS)
        if cpu_seconds(descendants()) - before < AT_REST_CORES * LOOK_SECONDS:
            return


def end_all(server: int, stop: Signals) -> list[str]:
    """Send `stop` to the server and wait for its tree; SIGKILL what outlives that.

    Returns:
        The command lines of those that had to be killed.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, stop)
    end = time.monotonic() + PATIENCE
    while (left := _reap()) and time.monotonic() < end:
        time.sleep(0.1)
    names = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[:80])
            process.kill()
    while _reap():
        time.sleep(0.1)
    return sorted(names)


def _reap() -> list[psutil.Process]:
    """Collect ended children; the descendants that are alive."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return descendants()
