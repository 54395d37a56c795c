"""A request's pictures on their way through a model, until each has a result or the request ends early."""

import asyncio
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

from service.admission import Admission
from service.base64_picture import Base64Picture
from service.errors import ServiceError
from service.preprocessing import Pixels
from service.record import RequestRecord
from service.session import Scores

Content = bytes | Base64Picture | Pixels
"""Of a picture: encoded, perhaps as text, or its pixels as the model takes them."""

NOTHING = b""

Result = Scores | ServiceError


@dataclass(eq=False, slots=True)
class Item:
    """One picture of a request."""

    work: "Work"
    index: int
    content: Content
    pixels: Pixels | None = None
    decode_started: float = 0
    """On the clock of `time.perf_counter`, like the next."""
    decoded: float = 0
    """When it was queued."""
    waits: bool = False
    """Whether it is in the queue."""

    @property
    def place(self) -> tuple[int, int]:
        """Whose turn it is: requests as they came, and within one of them its pictures as they were sent."""
        return self.work.order, self.index


class Work:
    """The pictures of one request. Belongs to the event loop.

    Args:
        order: the request's number; lower ones came earlier.
        pictures: what each consists of.
        admission: what let them in; it is told of each that leaves.
        record: the request's.
    """

    def __init__(self, order: int, pictures: Sequence[Content], admission: Admission, record: RequestRecord) -> None:
        self.order = order
        self.items = [Item(self, index, content) for index, content in enumerate(pictures)]
        self.abandoned = False
        self.record = record
        self._admission = admission
        self._results: list[Result | None] = [None] * len(pictures)
        self._missing = len(pictures)
        self._done: asyncio.Future[list[Result] | ServiceError] = asyncio.get_running_loop().create_future()

    async def results(self) -> list[Result]:
        """What became of each picture, in request order, once all are settled. Raises what `abandon` was given."""
        outcome = await self._done
        if isinstance(outcome, ServiceError):
            # A copy, as what is raised refers to its frames, and they to this and to the request's bytes.
            raise copy(outcome)
        return outcome

    def settle(self, item: Item, result: Result) -> None:
        """One picture is through."""
        if self.abandoned:
            return
        self._results[item.index] = result
        self._missing -= 1
        self._admission.finished()
        if self._missing == 0:
            self._let_go()
            if not self._done.done():  # the request may have been cancelled in this very turn
                self._done.set_result([each for each in self._results if each is not None])

    def abandon(self, error: ServiceError) -> None:
        """Nobody needs the results any more: what has not reached the session never does, and is let go of.

        Later calls do nothing.
        """
        if self.abandoned or self._missing == 0:
            return
        self.abandoned = True
        self._let_go()
        self._admission.dropped(self._missing)
        if not self._done.done():
            self._done.set_result(error)

    def _let_go(self) -> None:
        """Of the pictures: a queue may still have them, and in a cycle with this they would wait for a collection."""
        for item in self.items:
            item.content, item.pixels = NOTHING, None
        self.items = []
