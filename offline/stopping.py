"""Ctrl-C and SIGTERM: the present picture is finished, and so is what was written."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Each = TypeVar("Each")


class Stop:
    """Whether, and by which signal, somebody has asked for the end."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def before_end(self, each: Iterable[Each]) -> Iterator[Each]:
        """The same again, until then."""
        for one in each:
            yield one
            if self.signal is not None:
                return

    @property
    def status(self) -> int:
        """The exit status that says so, as shells have it; 0 if nobody has."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def stopping() -> Iterator[Stop]:
    """Take note of signals in this block. A second one ends the process at once."""
    stop = Stop()

    def take_note(number: int, _: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, take_note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
