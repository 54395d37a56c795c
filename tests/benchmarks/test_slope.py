"""A line through a series tells growth from standing still, and says when it cannot."""

import math
import random
from collections.abc import Callable

import pytest

from benchmarks.slope import slope

SECONDS = 1800.0


def series(value: Callable[[float], float]) -> tuple[list[float], list[float]]:
    """Half an hour of looks, three seconds apart."""
    times = [3.0 * number for number in range(600)]
    return times, [value(each) for each in times]


def test_a_straight_line_is_found_exactly() -> None:
    found = slope(*series(lambda seconds: 300 + 36 * seconds / 3600))

    assert (found.low, found.per_hour, found.high) == pytest.approx((36, 36, 36))


def test_what_grows_beyond_doubt_is_not_zero_however_little_it_is() -> None:
    found = slope(*series(lambda seconds: 300 + seconds / 3600))

    assert not found.is_zero(0.5, allowed=60)


@pytest.mark.parametrize("per_hour", [0, -40])
def test_what_stands_still_or_falls_is_zero(per_hour: float) -> None:
    chance = random.Random(1)
    found = slope(*series(lambda seconds: 300 + per_hour * seconds / 3600 + chance.gauss(0, 20)))

    assert found.low <= per_hour <= found.high
    assert found.is_zero(0.5, allowed=60)


def test_what_comes_and_goes_is_no_growth_even_if_it_stays_longer_each_time() -> None:
    def loading(seconds: float) -> float:
        return 85 if seconds % 75 < 10 + seconds / 60 else 0

    found = slope(*series(lambda seconds: 200 + loading(seconds)))

    assert (found.per_hour, found.low, found.high) == pytest.approx((0, 0, 0))


def test_what_is_hardly_known_is_not_zero() -> None:
    found = slope(*series(lambda seconds: 300 + 200 * math.sin(seconds / 200)))

    assert found.low < 0 < found.high
    assert not found.is_zero(0.5, allowed=60)
