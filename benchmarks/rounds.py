"""Timing things against each other: all take turns in rounds, since machines drift."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

from rich.progress import track

Work = Callable[[], object]


def milliseconds(works: Mapping[str, Work], rounds: int, description: str) -> dict[str, list[float]]:
    """What each call took in every round, after one that does not count; every second round goes backwards."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for _ in track(range(rounds), description=description):
        for name in names:
            begin = perf_counter()
            works[name]()
            times[name].append(1000 * (perf_counter() - begin))
        names.reverse()
    return times


def median_ratio(times: list[float], base: list[float]) -> float:
    """The median of the rounds' ratios, which a machine that is slower for some rounds leaves alone."""
    return median(one / other for one, other in zip(times, base, strict=True))
