"""What the measurement of a model runs, and which batch limit follows from it."""

import os
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import tuning
from service.preprocessing import Pixels
from service.session import Scores
from service.tuning import MOST_RUNS, RUNS, BatchTime, batch_sizes, best_limit, measure_curve
from tests.service.live import PATIENCE
from tests.service.stand_ins import echo, session


class Timed:
    """A session whose runs of a batch take as long as this says, on a clock that each thread has for itself."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.batches: list[int] = []
        self._seconds = seconds
        self._clock = threading.local()

    def now(self) -> float:
        return getattr(self._clock, "now", 0.0)

    def __call__(self, pixels: Pixels) -> Scores:
        assert pixels.dtype == np.uint8
        assert not pixels.any()
        assert pixels.shape[1:] == (32, 32, 3)
        self.batches.append(len(pixels))
        self._clock.now = self.now() + self._seconds(len(pixels))
        return echo(pixels)


def curve_of(
    seconds: Callable[[int], float],
    monkeypatch: pytest.MonkeyPatch,
    *,
    largest: int,
    instances: int = 1,
    budget: float | None = None,
) -> tuple[list[BatchTime], list[int]]:
    """The curve, and the batches that were run for it."""
    timed = Timed(seconds)
    monkeypatch.setattr(tuning, "perf_counter", timed.now)
    curve = measure_curve(session(timed), instances=instances, largest=largest, budget=budget, in_caller=False)
    return curve, timed.batches


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12]), (32, [1, 2, 4, 8, 16, 32])],
)
def test_sizes_double_up_to_the_largest(largest: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(batch_sizes(largest)) == sizes
    curve, _ = curve_of(lambda batch: batch, monkeypatch, largest=largest)
    assert [time.batch for time in curve] == sizes


def test_times_are_those_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    curve, _ = curve_of(lambda batch: 1 + batch / 4, monkeypatch, largest=4)

    assert [time.seconds for time in curve] == [1.25, 1.5, 2]
    assert [time.pictures_per_second for time in curve] == pytest.approx([1 / 1.25, 2 / 1.5, 2])


def test_of_several_instances_all_run_at_once_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(3)

    def seconds(_: int) -> float:
        meeting.wait(PATIENCE)
        return 2

    curve, _ = curve_of(seconds, monkeypatch, largest=4, instances=3)

    assert [time.seconds for time in curve] == [2, 2, 2]
    assert [time.pictures_per_second for time in curve] == [1.5, 3, 6]


def test_every_size_is_warmed_before_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    def seconds(batch: int) -> float:
        first = batch not in seen
        seen.add(batch)
        return 100 if first else 1

    curve, batches = curve_of(seconds, monkeypatch, largest=2, budget=2)

    assert [time.seconds for time in curve] == [1, 1]
    assert batches == [1, 1, 2, 2] + [1, 2] * (RUNS - 1)


def test_one_slow_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter([1, 1, 50, 1])

    curve, _ = curve_of(lambda _: next(runs), monkeypatch, largest=1)

    assert [time.seconds for time in curve] == [1]


def test_short_runs_are_repeated_until_they_say_something(monkeypatch: pytest.MonkeyPatch) -> None:
    _, batches = curve_of(lambda _: tuning.SECONDS / 16, monkeypatch, largest=1)

    assert len(batches) == 1 + 16


def test_the_shortest_runs_are_not_repeated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    _, batches = curve_of(lambda _: 0.0001, monkeypatch, largest=1)

    assert len(batches) == 1 + MOST_RUNS


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [(3.5, [1, 2, 4]), (4, [1, 2, 4, 8]), (0.5, [1]), (100, [1, 2, 4, 8, 16]), (None, [1, 2, 4, 8, 16])],
)
def test_sizes_beyond_the_first_that_takes_too_long_are_not_run(
    budget: float | None, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    curve, batches = curve_of(float, monkeypatch, largest=16, budget=budget)

    assert [time.batch for time in curve] == sizes
    assert sorted(set(batches)) == sizes


def test_what_a_run_raises_is_passed_on() -> None:
    def fail(_: Pixels) -> Scores:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure_curve(session(fail), instances=2, largest=4, budget=None, in_caller=False)


def test_a_run_in_the_calling_thread_is_timed_by_what_it_takes_of_a_processor() -> None:
    def stand_aside(pixels: Pixels) -> Scores:
        threading.Event().wait(0.05)
        return echo(pixels)

    (beside,) = measure_curve(session(stand_aside), instances=1, largest=1, budget=None, in_caller=False)
    (within,) = measure_curve(session(stand_aside), instances=1, largest=1, budget=None, in_caller=True)

    assert beside.seconds >= 0.05
    assert within.seconds < 0.025


def test_what_is_served_meanwhile_goes_first() -> None:
    seen = []

    def look(pixels: Pixels) -> Scores:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return echo(pixels)

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    measure_curve(session(look), instances=2, largest=2, budget=None, in_caller=True)

    assert set(seen) == {before + tuning.NICE}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def time(batch: int, seconds: float, pictures_per_second: float) -> BatchTime:
    return BatchTime(batch=batch, seconds=seconds, pictures_per_second=pictures_per_second)


@pytest.mark.parametrize(
    ("rates", "limit"),
    [
        ([100, 100, 100, 100], 1),
        ([100, 150, 200, 250], 8),
        ([100, 150, 250, 200], 4),
        ([50, 96.9, 99, 100], 4),
        ([50, 97.1, 99, 100], 2),
    ],
)
def test_the_limit_is_the_smallest_that_is_about_as_fast_as_the_best(rates: list[float], limit: int) -> None:
    curve = [time(2**power, 0.01, rate) for power, rate in enumerate(rates)]

    assert best_limit(curve, budget=1) == limit


def test_what_takes_too_long_is_no_limit_however_fast() -> None:
    curve = [time(1, 0.2, 100), time(2, 0.5, 150), time(4, 0.50001, 1000)]

    assert best_limit(curve, budget=0.5) == 2


def test_if_all_take_too_long_the_smallest_is_the_limit() -> None:
    assert best_limit([time(1, 2, 100), time(2, 3, 900)], budget=0.5) == 1


points = st.lists(st.tuples(st.floats(0.001, 1), st.floats(1, 1000)), min_size=1, max_size=8)


@given(points, st.floats(0.001, 1))
@settings(max_examples=200)
def test_the_law_of_the_limit(points: list[tuple[float, float]], budget: float) -> None:
    curve = [time(2**power, seconds, rate) for power, (seconds, rate) in enumerate(points)]

    limit = best_limit(curve, budget)

    within = {each.batch: each.pictures_per_second for each in curve if each.seconds <= budget}
    if within:
        assert within[limit] >= 0.97 * max(within.values())
        assert all(rate < 0.97 * max(within.values()) for batch, rate in within.items() if batch < limit)
    else:
        assert limit == 1
