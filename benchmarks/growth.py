"""A process tree watched over time."""

import contextlib
import threading
import time
from dataclasses import dataclass

import psutil

from benchmarks.processes import pss_mib


@dataclass(frozen=True)
class Look:
    """At a process and all below it."""

    seconds: float
    mib: float
    """Resident; a page that processes share counts once."""
    service_mib: float
    """The part of the first process, which has the connections, the queue and the sessions."""
    files: int
    threads: int


def service_process() -> psutil.Process:
    """The service that this process has started; below it are the one that forks, and the decoders."""
    return next(each for each in psutil.Process().children() if "service" in each.cmdline())


def look(root: psutil.Process, since: float) -> Look:
    """How things stand now, `since` being the start on `time.monotonic`'s clock."""
    tree = [root, *root.children(recursive=True)]
    files = threads = 0
    for process in tree:
        with contextlib.suppress(psutil.Error):  # a decoder that has ended meanwhile
            files += process.num_fds()
            threads += process.num_threads()
    return Look(time.monotonic() - since, pss_mib(tree), pss_mib([root]), files, threads)


class Watch:
    """Looks every so many seconds, from entering to leaving the context."""

    def __init__(self, root: psutil.Process, every: float) -> None:
        self.looks: list[Look] = []
        self._root = root
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        since = time.monotonic()
        while not self._over.wait(self._every):
            self.looks.append(look(self._root, since))
