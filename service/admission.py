"""Who is let in: as many pictures and bytes as there is room for, if they can be answered in time."""

import math
from collections.abc import Callable
from time import perf_counter
from typing import Self

from prometheus_client import Gauge

from service.errors import Overloaded

WINDOW_SECONDS = 0.25
WINDOW_PICTURES = 8
"""Shortest spell that the service rate is measured over: both have to be reached."""

SMOOTHING = 0.3
"""Weight of a new measurement in the moving average."""


class ServiceRate:
    """Pictures that leave a model per second while it has more than it can work on at once.

    Args:
        expected: the rate until the first measurement; with idle threads it may be as good again.
        busy: more pictures in work than this keep every thread busy; times with fewer say nothing of the capacity.
    """

    def __init__(self, expected: float, busy: int) -> None:
        self.per_second = expected
        self._expected = expected
        self.busy = busy
        self._since: float | None = None
        self._pictures = 0

    @property
    def best(self) -> float:
        """The highest that is to be hoped for, per second."""
        return max(self._expected, self.per_second)

    def finished(self, in_work: int, now: float) -> None:
        """One picture left at `now` (seconds); `in_work` are left behind."""
        self._pictures += 1
        if in_work <= self.busy:
            self._since = None
        elif self._since is None:
            self._since, self._pictures = now, 0
        elif now - self._since >= WINDOW_SECONDS and self._pictures >= WINDOW_PICTURES:
            measured = self._pictures / (now - self._since)
            self.per_second += SMOOTHING * (measured - self.per_second)
            self._since, self._pictures = now, 0

    def dropped(self, in_work: int) -> None:
        """Some were dropped; `in_work` are left behind."""
        if in_work <= self.busy:
            self._since = None


class Admission:
    """A model's bound on pictures in work, and its forecast of how long they take. Belongs to the event loop.

    Args:
        model: its name, for messages.
        limit: most pictures in work.
        rate: how fast they leave.
        margin: seconds by which the forecast may be wrong. Under overload all that is let in is let in just so, and
            without a margin half of it would be late, after all the work on it.
    """

    def __init__(self, model: str, limit: int, rate: ServiceRate, margin: float) -> None:
        self.in_work = 0
        """Pictures that were admitted, and neither answered nor dropped."""
        self.limit = limit
        self._model = model
        self._rate = rate
        self._margin = margin

    def check(self, pictures: int, seconds: float) -> None:
        """Whether that many pictures would be let in, to be answered within that many seconds.

        Raises:
            Overloaded: there is no room, or not enough time at the rate that was measured.
        """
        if self.in_work + pictures > self.limit:
            raise Overloaded(
                f"model {self._model} has {self.in_work} pictures in work, {pictures} more would pass the limit of "
                f"{self.limit}",
                self.seconds_until(self.limit - pictures),
            )
        together = self.in_work + pictures
        if together <= self._rate.busy:
            return  # nothing waits
        if self.in_work > self._rate.busy:
            needed, how = together / self._rate.per_second + self._margin, "at the present rate"
        else:
            # The measured rate may be one of other times, and would stay so if it refused those who could measure it.
            needed, how = together / self._rate.best, "at best"
        if needed > seconds:
            raise Overloaded(
                f"model {self._model} has {self.in_work} pictures in work; with {pictures} more they take about "
                f"{needed * 1000:.0f} ms {how}, but the request has {seconds * 1000:.0f} ms left",
                self.seconds_until(math.floor((seconds - self._margin) * self._rate.per_second) - pictures),
            )

    def admit(self, pictures: int, seconds: float) -> None:
        """Let them in, or raise as `check` does. `finished` and `dropped` take them out again."""
        self.check(pictures, seconds)
        self.in_work += pictures

    def finished(self) -> None:
        """A picture has its result."""
        self.in_work -= 1
        self._rate.finished(self.in_work, perf_counter())

    def dropped(self, pictures: int) -> None:
        """Nobody needs their results any more."""
        self.in_work -= pictures
        self._rate.dropped(self.in_work)

    def seconds_until(self, in_work: int) -> int:
        """Whole seconds, at least one, until no more than that many pictures are in work (RFC 9110, section 10.2.3)."""
        return max(1, math.ceil((self.in_work - max(in_work, 0)) / self._rate.per_second))


class HeldBytes:
    """A bound on the request bodies that are held at once, whether complete or still arriving.

    Args:
        limit: bytes.
        gauge: shows how many are held.
    """

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self.held = 0
        self.limit = limit
        self._gauge = gauge

    def change(self, by: int) -> None:
        """So many bytes more are held, or less."""
        self.held += by
        self._gauge.inc(by)

    def account(self, retry_after: Callable[[], int]) -> "Account":
        """One request's share. `retry_after` tells refused clients when to come back."""
        return Account(self, retry_after)


class Account:
    """What one request holds of the bound; given back on leaving it as a context."""

    def __init__(self, bound: HeldBytes, retry_after: Callable[[], int]) -> None:
        self.held = 0
        self._bound = bound
        self._retry_after = retry_after

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bound.change(-self.held)

    def require_room(self, total: int) -> None:
        """Whether `total` bytes could be held, of which some may be held already. Announced bytes are not held: clients
        that announce and do not send would keep all others out.

        Raises:
            Overloaded: all requests together would hold more than the bound.
        """
        more = max(0, total - self.held)
        if self._bound.held + more > self._bound.limit:
            raise Overloaded(
                f"requests hold {self._bound.held} bytes, {more} more would pass the limit of {self._bound.limit}",
                self._retry_after(),
            )

    def hold(self, total: int) -> None:
        """Hold `total` bytes from now on, or raise as `require_room` does."""
        self.require_room(total)
        self._bound.change(total - self.held)
        self.held = total
