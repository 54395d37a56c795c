"""How long a model takes by batch size, measured when it is loaded, and the batch limit that follows."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import get_native_id
from time import perf_counter, thread_time

from pydantic import BaseModel, Field

from service.session import Session

RUNS, MOST_RUNS = 3, 20
"""Fewest and most measured runs of a size, after one that warms it up."""

SECONDS = 1.0
"""Short runs are repeated until all of them have taken this long."""

NEAR_THE_BEST = 0.97
"""The share of the best throughput that is good enough for the sake of smaller batches."""

NICE = 10
"""By so much the threads that measure have a lower priority, as in nice(1): what is served meanwhile goes first."""


class BatchTime(BaseModel):
    """What one batch size costs; on the CPU with as many runs at once as the model has instances, on a GPU alone."""

    batch: int
    seconds: float = Field(description="of one run")
    pictures_per_second: float = Field(description="of all instances together; on a GPU of one")


def batch_sizes(largest: int) -> Iterator[int]:
    """1, 2, 4, 8 … and `largest`."""
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield largest


def measure_curve(
    session: Session, *, instances: int, largest: int, budget: float | None, in_caller: bool
) -> list[BatchTime]:
    """Run each batch size up to `largest` on blank pictures, which warms them up.

    Sizes beyond the first that takes longer than `budget` seconds are left out. All others take turns, as machines
    are faster at one moment than at the next. Raises what onnxruntime raises.

    Args:
        session: what is measured.
        instances: how many runs at once.
        largest: batch size.
        budget: seconds; None: none.
        in_caller: whether a run needs no thread but the one that calls it. Then that thread's CPU time is taken, which
            is the same when the cores have other work.
    """
    times: dict[int, list[float]] = {}
    clock = thread_time if in_caller else perf_counter
    with ThreadPoolExecutor(instances, thread_name_prefix="tune", initializer=_give_way) as pool:

        def run(batch: int) -> list[float]:
            return list(pool.map(_time, [session] * instances, [batch] * instances, [clock] * instances))

        for batch in batch_sizes(largest):
            run(batch)
            times[batch] = run(batch)
            if budget is not None and median(times[batch]) > budget:
                break
        rounds = 1
        while rounds < RUNS or (rounds < MOST_RUNS and sum(map(sum, times.values())) < SECONDS * instances):
            for batch, measured in times.items():
                measured += run(batch)
            rounds += 1
    return [
        BatchTime(batch=batch, seconds=median(each), pictures_per_second=instances * batch / median(each))
        for batch, each in times.items()
    ]


def _give_way() -> None:
    # Of the thread alone (setpriority(2), notes).
    os.setpriority(os.PRIO_PROCESS, get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICE)


def _time(session: Session, batch: int, clock: Callable[[], float]) -> float:
    started = clock()
    session.probe(batch)
    return clock() - started


def best_limit(curve: Sequence[BatchTime], budget: float) -> int:
    """The smallest size within 3 % of the best throughput among those that take at most `budget` seconds.

    If none is as fast as that, the smallest there is.
    """
    allowed = [each for each in curve if each.seconds <= budget] or curve[:1]
    best = max(each.pictures_per_second for each in allowed)
    return next(each.batch for each in allowed if each.pictures_per_second >= NEAR_THE_BEST * best)
