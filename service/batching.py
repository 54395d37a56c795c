"""The queue in front of a model's sessions: decoded pictures that wait together run together."""

import heapq
import math
from collections import deque
from collections.abc import Callable
from time import perf_counter

from service.work import Item


class BatchQueue:
    """Decoded pictures in the order of their requests, so that the parts of a split request stay together.

    Belongs to the event loop.

    Args:
        limit: most pictures in one batch.
        patience: seconds that pictures wait for others to be decoded where both need the same cores.
    """

    def __init__(self, *, limit: int, patience: float) -> None:
        self.limit = limit
        self._patience = patience
        self._waiting: list[tuple[tuple[int, int], Item]] = []
        self._as_decoded: deque[Item] = deque()
        """The same, and some that have left, in the order in which they came here."""
        self._listeners: list[Callable[[], None]] = []

    def __len__(self) -> int:
        """Pictures that wait, those of abandoned requests included."""
        return len(self._waiting)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this whenever there is something to take."""
        self._listeners.append(listener)

    def wake(self) -> None:
        """Tell the listeners to look."""
        for listener in self._listeners:
            listener()

    def put(self, item: Item) -> None:
        """A picture is decoded."""
        item.decoded = perf_counter()
        item.waits = True
        self._as_decoded.append(item)
        heapq.heappush(self._waiting, (item.place, item))
        self.wake()

    @property
    def oldest(self) -> float:
        """When the first of those that wait came here, infinity if there is none; on the clock of `time.perf_counter`.

        That need not be the one whose turn is next.
        """
        self._forget()
        return self._as_decoded[0].decoded if self._as_decoded else math.inf

    @property
    def due_at(self) -> float:
        """When one of them will have waited for long enough, infinity if there is none."""
        return self.oldest + self._patience

    def is_due(self, now: float) -> bool:
        """Whether a batch is full, or has gathered for long enough."""
        return len(self._waiting) >= self.limit or now >= self.due_at

    def take(self, sharers: int) -> list[Item]:
        """The next batch. `sharers` runs can start on what is there, and each leaves the others their share."""
        batch: list[Item] = []
        most = min(self.limit, math.ceil(len(self._waiting) / sharers))
        while self._waiting and len(batch) < most:
            _, item = heapq.heappop(self._waiting)
            item.waits = False
            if not item.work.abandoned:
                batch.append(item)
        self._forget()
        return batch

    def _forget(self) -> None:
        """Those that have left, and that nobody waits for."""
        while self._as_decoded and (self._as_decoded[0].work.abandoned or not self._as_decoded[0].waits):
            self._as_decoded.popleft()
