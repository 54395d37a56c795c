"""Who is let in, when others may come back, and how the rate is measured that this follows from."""

import math
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Gauge

from service import admission as admission_module
from service.admission import SMOOTHING, WINDOW_PICTURES, WINDOW_SECONDS, Account, Admission, HeldBytes, ServiceRate
from service.errors import Overloaded

PLENTY = 1e9
"""Seconds."""

BUSY = 2
"""Pictures in work that keep every thread busy."""


def admission_of(limit: int, per_second: float = 10, in_work: int = 0) -> Admission:
    admission = Admission("m", limit, ServiceRate(per_second, BUSY), margin=0)
    if in_work:
        admission.admit(in_work, PLENTY)
    return admission


def test_the_limit_is_inclusive_and_says_when_to_come_back() -> None:
    admission = admission_of(8, in_work=6)

    with pytest.raises(Overloaded) as refusal:
        admission.admit(3, PLENTY)
    assert str(refusal.value) == "model m has 6 pictures in work, 3 more would pass the limit of 8"
    assert refusal.value.retry_after == 1
    assert admission.in_work == 6

    admission.admit(2, PLENTY)
    assert admission.in_work == 8


@given(st.lists(st.tuples(st.sampled_from(["admit", "finish", "drop"]), st.integers(1, 6))), st.integers(1, 12))
@settings(max_examples=100)
def test_what_is_in_work_is_what_came_less_what_left(events: list[tuple[str, int]], limit: int) -> None:
    admission, expected = admission_of(limit), 0
    for event, pictures in events:
        if event == "admit":
            if expected + pictures <= limit:
                admission.admit(pictures, PLENTY)
                expected += pictures
            else:
                with pytest.raises(Overloaded):
                    admission.admit(pictures, PLENTY)
        elif event == "finish" and expected:
            admission.finished()
            expected -= 1
        elif event == "drop" and expected >= pictures:
            admission.dropped(pictures)
            expected -= pictures
        assert 0 <= admission.in_work == expected <= limit


def test_nobody_is_let_in_who_cannot_be_answered_in_time() -> None:
    admission = admission_of(1000, per_second=100, in_work=50)

    admission.check(10, 0.61)
    with pytest.raises(Overloaded, match=r"with 10 more they take about 600 ms .* has 590 ms left") as refusal:
        admission.check(10, 0.59)
    assert refusal.value.retry_after == 1


@pytest.mark.parametrize("in_work", [0, 1, BUSY])
def test_who_finds_an_idle_thread_is_let_in_as_the_forecast_may_be_wrong(in_work: int) -> None:
    """A rate that an hour ago was low would otherwise refuse for ever, as nothing measures it."""
    rate = ServiceRate(1000, BUSY)
    rate.per_second = 1
    admission = Admission("m", 1000, rate, margin=0)
    admission.admit(in_work, PLENTY)

    admission.admit(100, 0.5)

    assert admission.in_work == in_work + 100


@pytest.mark.parametrize("in_work", [0, BUSY])
def test_not_even_an_idle_model_promises_more_than_it_can_do_at_best(in_work: int) -> None:
    admission = Admission("m", 1000, ServiceRate(100, BUSY), margin=0.5)
    admission.admit(in_work, PLENTY)

    admission.check(50 - in_work, 0.51)
    with pytest.raises(Overloaded, match="they take about 500 ms at best, but the request has 490 ms left"):
        admission.check(50 - in_work, 0.49)


def test_the_best_rate_is_the_measured_one_where_that_is_higher() -> None:
    rate = ServiceRate(10, BUSY)
    rate.per_second = 100

    Admission("m", 1000, rate, margin=0).check(50, 0.51)


def test_pictures_that_find_an_idle_thread_each_need_no_forecast() -> None:
    admission_of(8, per_second=1).check(BUSY, 0.001)


def test_who_finds_no_idle_thread_has_to_have_the_time() -> None:
    admission = admission_of(1000, per_second=1, in_work=BUSY + 1)

    with pytest.raises(Overloaded, match="at the present rate"):
        admission.admit(100, 0.5)


def test_checking_lets_nobody_in() -> None:
    admission = admission_of(8)

    admission.check(8, PLENTY)

    assert admission.in_work == 0


@given(st.integers(0, 1000), st.integers(-10, 1000), st.floats(0.01, 1e6), st.floats(0.01, 1e6))
@settings(max_examples=100)
def test_retry_after_is_at_least_one_and_falls_with_the_rate(
    in_work: int, until: int, one_rate: float, other_rate: float
) -> None:
    slow, fast = (
        admission_of(1000, per_second=rate, in_work=in_work).seconds_until(until)
        for rate in sorted([one_rate, other_rate])
    )

    assert 1 <= fast <= slow
    left = in_work - max(until, 0)
    assert fast == max(1, math.ceil(left / max(one_rate, other_rate)))


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 100), st.none() | st.floats(0, 10))
@settings(max_examples=200)
def test_who_comes_back_when_told_to_is_let_in(
    in_work: int, pictures: int, per_second: float, seconds: float | None
) -> None:
    """Whether there was no room, or not enough time; but for what not even an idle model can do in the time."""
    limit, seconds = (60, PLENTY) if seconds is None else (1000, seconds * (1 + 1e-9))
    try:
        admission_of(limit, per_second, in_work).check(pictures, seconds)
    except Overloaded as refusal:
        left = max(0, in_work - math.floor(refusal.retry_after * per_second * (1 + 1e-9)))
        possible = pictures <= BUSY or pictures / per_second <= seconds * (1 + 1e-9)
        with nullcontext() if possible else pytest.raises(Overloaded):
            admission_of(limit, per_second, left).check(pictures, seconds * (1 + 1e-9))


class Clocked:
    """Pictures that leave a rate at times of the test's choice."""

    def __init__(self, expected: float = 10, busy: int = 2) -> None:
        self.rate = ServiceRate(expected, busy)
        self.now = 100.0

    def leave(self, pictures: int, every: float, in_work: int) -> None:
        for _ in range(pictures):
            self.now += every
            self.rate.finished(in_work, self.now)


@given(st.floats(0.5, 5000))
@settings(max_examples=50)
def test_the_rate_follows_a_busy_model(per_second: float) -> None:
    clocked = Clocked()

    clocked.leave(200 + 20 * math.ceil(per_second * WINDOW_SECONDS), 1 / per_second, in_work=3)

    assert clocked.rate.per_second == pytest.approx(per_second, rel=0.1)


def test_a_measurement_moves_the_rate_by_its_weight() -> None:
    clocked = Clocked(expected=10)

    clocked.leave(1, 0, in_work=3)
    clocked.leave(WINDOW_PICTURES, 0.125, in_work=3)

    assert clocked.rate.per_second == pytest.approx(10 + SMOOTHING * (8 - 10))


@pytest.mark.parametrize(
    ("pictures", "every"), [(WINDOW_PICTURES - 1, 1.0), (50, WINDOW_SECONDS / 51)], ids=["few", "short"]
)
def test_a_spell_of_few_pictures_or_little_time_measures_nothing(pictures: int, every: float) -> None:
    clocked = Clocked(expected=10)

    clocked.leave(1 + pictures, every, in_work=3)

    assert clocked.rate.per_second == 10


def test_times_in_which_threads_are_idle_measure_nothing() -> None:
    clocked = Clocked(expected=10, busy=2)

    clocked.leave(100, 1.0, in_work=2)

    assert clocked.rate.per_second == 10


def test_an_idle_time_between_busy_spells_counts_for_neither() -> None:
    clocked = Clocked(expected=10, busy=2)

    for _ in range(50):
        clocked.leave(1, 3600.0, in_work=3)
        clocked.leave(WINDOW_PICTURES, 0.125, in_work=3)
        clocked.leave(1, 0.125, in_work=0)

    assert clocked.rate.per_second == pytest.approx(8, rel=0.01)


def test_a_spell_ends_when_what_was_left_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(admission_module, "perf_counter", lambda: now)
    rate = ServiceRate(10, 2)
    admission = Admission("m", 100, rate, margin=0)

    admission.admit(20, PLENTY)
    admission.finished()
    admission.dropped(19)  # their deadline has passed
    now += 3600
    admission.admit(12, PLENTY)
    for _ in range(12):
        now += 0.125
        admission.finished()

    assert rate.per_second == pytest.approx(10 + SMOOTHING * (8 - 10), rel=0.01)


def held_bytes(limit: int) -> HeldBytes:
    return HeldBytes(limit, Gauge("bytes", "", registry=None))


def come_back() -> int:
    return 7


def test_bytes_are_held_until_the_request_is_through() -> None:
    bound = held_bytes(100)

    with bound.account(come_back) as one:
        one.hold(60)
        with bound.account(come_back) as other:
            other.hold(40)
            assert bound.held == 100
        assert bound.held == 60
    assert bound.held == 0


def test_holding_counts_what_is_held_already() -> None:
    bound = held_bytes(100)

    with bound.account(come_back) as account:
        held = []
        for total in (10, 30, 30, 20, 100):
            account.hold(total)
            held.append(bound.held)

    assert held == [10, 30, 30, 20, 100]


def test_asking_for_room_holds_nothing() -> None:
    bound = held_bytes(100)

    with bound.account(come_back) as one, bound.account(come_back) as other:
        one.require_room(100)
        one.hold(60)
        one.require_room(100)
        other.require_room(40)
        with pytest.raises(Overloaded, match="1 more would pass the limit of 100"):
            other.require_room(41)
        assert bound.held == 60


def test_more_bytes_than_the_bound_are_refused_and_not_held() -> None:
    bound = held_bytes(100)

    def take_one_too_many(account: Account) -> None:
        account.hold(40)
        account.hold(41)

    with bound.account(come_back) as one:
        one.hold(60)
        with bound.account(come_back) as other, pytest.raises(Overloaded) as refusal:
            take_one_too_many(other)
        assert bound.held == 60

    assert str(refusal.value) == "requests hold 100 bytes, 1 more would pass the limit of 100"
    assert refusal.value.retry_after == 7
    assert bound.held == 0


@pytest.mark.parametrize("error", [Overloaded("full", 1), KeyboardInterrupt(), ValueError()])
def test_bytes_are_given_back_whatever_goes_wrong(error: BaseException) -> None:
    bound = held_bytes(100)

    def fail() -> None:
        with bound.account(come_back) as account:
            account.hold(60)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert bound.held == 0


def test_a_deadline_within_the_margin_of_the_forecast_is_not_promised() -> None:
    admission = Admission("m", 100, ServiceRate(10, 2), margin=0.5)
    admission.admit(9, 10)

    admission.check(1, 1.5)
    with pytest.raises(Overloaded, match="they take about 1500 ms"):
        admission.check(1, 1.49)
