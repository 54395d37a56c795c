"""Whether something grows: a process tree watched over time, and a line through what was seen."""

import contextlib
import threading
import time
from dataclasses import dataclass
from statistics import linear_regression, mean

import psutil

from benchmarks.processes import pss_mib

BLOCKS = 10
"""A series is cut into so many, whose means are independent enough for a line through them."""

T_95 = 2.306
"""Student's t for 95 % and `BLOCKS` - 2 degrees of freedom."""


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


@dataclass(frozen=True)
class Slope:
    """Of a straight line through a series, in units an hour, with its 95 % confidence interval."""

    per_hour: float
    low: float
    high: float

    @property
    def is_zero(self) -> bool:
        """Whether it cannot be told from zero, or falls."""
        return self.low <= 0


def slope(times: list[float], values: list[float]) -> Slope:
    """The line through the means of `BLOCKS` blocks; times in seconds. Needs two values a block."""
    size = len(values) // BLOCKS
    blocks = [slice(number * size, (number + 1) * size) for number in range(BLOCKS)]
    hours = [mean(times[block]) / 3600 for block in blocks]
    means = [mean(values[block]) for block in blocks]
    line = linear_regression(hours, means)
    residuals = [value - line.intercept - line.slope * hour for hour, value in zip(hours, means, strict=True)]
    spread = sum((hour - mean(hours)) ** 2 for hour in hours)
    error = (sum(each**2 for each in residuals) / (BLOCKS - 2) / spread) ** 0.5
    return Slope(line.slope, line.slope - T_95 * error, line.slope + T_95 * error)
