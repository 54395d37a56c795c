"""A request's deadline: how long its client is willing to wait."""

import asyncio
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers

from service.errors import BadRequest, DeadlineExceeded
from service.settings import Settings

HEADER = "X-Request-Timeout-Ms"

MOST_DIGITS = 18
"""More than any cap has; Python refuses to read thousands of them."""


@dataclass(frozen=True)
class Deadline:
    """A point in time of the running event loop."""

    at: float
    """Seconds, on the event loop's clock."""
    milliseconds: int
    """What was asked for."""

    @classmethod
    def of(cls, headers: Headers, settings: Settings) -> Self:
        """From the header `X-Request-Timeout-Ms`, counted from now and capped by the settings.

        Raises:
            BadRequest: the header is not a whole number from 1.
        """
        asked = headers.get(HEADER)
        if asked is None:
            milliseconds = settings.timeout_ms
        elif asked.isascii() and asked.isdigit() and asked.strip("0"):
            milliseconds = min(int(asked.lstrip("0")[:MOST_DIGITS]), settings.max_timeout_ms)
        else:
            raise BadRequest(f"{HEADER} is '{asked}', but has to be a whole number of milliseconds, from 1")
        return cls._from_now(milliseconds)

    @classmethod
    def within(cls, seconds: float | None, settings: Settings) -> Self:
        """So many seconds from now, capped by the settings; None: their default."""
        milliseconds = settings.timeout_ms if seconds is None else min(round(1000 * seconds), settings.max_timeout_ms)
        return cls._from_now(milliseconds)

    @classmethod
    def _from_now(cls, milliseconds: int) -> Self:
        return cls(asyncio.get_running_loop().time() + milliseconds / 1000, milliseconds)

    @property
    def seconds_left(self) -> float:
        """Negative once it has passed."""
        return self.at - asyncio.get_running_loop().time()

    def exceeded(self, *, body_unread: bool = False) -> DeadlineExceeded:
        """What its request ends with."""
        error = DeadlineExceeded(f"the answer was not ready within {self.milliseconds} ms")
        error.body_unread = body_unread
        return error
