"""The queue in front of a model's sessions: decoded pictures that wait together run together."""

import heapq
import math
from collections.abc import Callable
from time import perf_counter

from service.work import Item


class BatchQueue:
    """Decoded pictures in the order of their requests, so that the parts of a split request stay together.

    Belongs to the event loop.

    Args:
        limit: most pictures in one batch.
        patience: seconds that pictures wait for others to be decoded where both need the same cores; the time of a
            full batch, so that gathering at most doubles the time of a run.
    """

    def __init__(self, *, limit: int, patience: float) -> None:
        self.limit = limit
        self._patience = patience
        self._waiting: list[tuple[tuple[int, int], Item]] = []
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
        heapq.heappush(self._waiting, (item.place, item))
        self.wake()

    @property
    def oldest(self) -> float:
        """When the next picture was decoded, infinity if there is none; on the clock of `time.perf_counter`."""
        return self._waiting[0][1].decoded if self._waiting else math.inf

    @property
    def due_at(self) -> float:
        """When the next picture will have waited for long enough, infinity if there is none."""
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
            if not item.work.abandoned:
                batch.append(item)
        return batch
