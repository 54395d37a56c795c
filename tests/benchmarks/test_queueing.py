"""The simulated service, beside what is known of such queues."""

from dataclasses import replace
from statistics import mean

import pytest

from benchmarks.queueing import FREE, Costs, Setup, Step, simulate
from service.tuning import BatchTime


def curve(**seconds: float) -> list[BatchTime]:
    """Of batch sizes that begin with b: `b1=0.01`."""
    return [
        BatchTime(batch=int(size[1:]), seconds=each, pictures_per_second=int(size[1:]) / each)
        for size, each in seconds.items()
    ]


QUIET = Setup(cores=2, batch_limit=4, rate=0.5, seconds=200, deadline=10)

COSTS = Costs(
    http=Step(0.005, 0.0015),
    around_run=Step(0.001, 0.0005),
    decode=Step(0.006, 0.004),
    curve=curve(b1=0.01, b2=0.016, b4=0.028),
)


def test_alone_a_request_takes_what_its_steps_take() -> None:
    outcome = simulate(COSTS, QUIET)

    assert outcome.p50 == pytest.approx(0.005 + 0.006 + 0.01 + 0.001)
    assert (outcome.refused, outcome.late) == (0, 0)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_core_and_no_batches_wait_as_pollaczek_and_khinchine_say(load: float) -> None:
    seconds = 0.01
    one = Setup(cores=1, batch_limit=1, rate=load / seconds, seconds=200, deadline=1000, max_queue=10**6)

    outcome = simulate(Costs(http=FREE, around_run=FREE, decode=FREE, curve=curve(b1=seconds)), one)

    # M/D/1: half the load, over what is left of it, times the service time.
    assert mean(outcome.answered) - seconds == pytest.approx(seconds * load / (2 * (1 - load)), rel=0.1)


def test_requests_that_take_longer_come_in_turn() -> None:
    outcome = simulate(replace(COSTS, variation=(0.5, 1.5)), QUIET)

    small, large = (0.005 + variation * (0.006 + 0.01 + 0.001) for variation in (0.5, 1.5))
    assert sorted(outcome.answered)[len(outcome.answered) // 4] == pytest.approx(small)
    assert sorted(outcome.answered)[len(outcome.answered) * 3 // 4] == pytest.approx(large)


def test_what_gathers_while_all_cores_decode_runs_when_it_has_waited_for_long_enough() -> None:
    """The second picture is decoded for so long that the first one would wait for it."""
    slow = replace(COSTS, variation=(1, 1000, 1000))
    close = Setup(cores=2, batch_limit=4, rate=1000, seconds=0.003, deadline=100)

    outcome = simulate(slow, close)

    assert len(outcome.answered) >= 3
    assert min(outcome.answered) < 0.2


def test_every_request_has_one_end_and_a_tight_queue_refuses_what_is_too_much() -> None:
    capacity = QUIET.cores / COSTS.each(QUIET.batch_limit)
    storm = replace(QUIET, rate=2 * capacity, deadline=0.5, seconds=60)

    outcome = simulate(COSTS, storm)

    total = len(outcome.answered) + outcome.refused + outcome.late
    assert total == pytest.approx(storm.rate * storm.seconds, rel=0.05)
    assert 0.75 * capacity < len(outcome.answered) / storm.seconds <= capacity  # refusing takes some of it
    assert max(outcome.answered) <= storm.deadline
    assert simulate(COSTS, storm) == outcome


def test_batches_between_the_timed_ones_are_in_proportion() -> None:
    assert COSTS.run(3) == pytest.approx((0.016 + 0.028) / 2)
    assert COSTS.run(4) == 0.028
    assert COSTS.each(4) == pytest.approx(0.0015 + 0.0005 + 0.004 + 0.007)


def test_cores_that_cannot_be_kept_at_work_answer_so_much_less() -> None:
    storm = replace(QUIET, rate=2 * QUIET.cores / COSTS.each(QUIET.batch_limit), deadline=1, seconds=60)

    whole, part = (len(simulate(replace(COSTS, used=used), storm).answered) for used in (1, 0.8))

    assert part / whole == pytest.approx(0.8, rel=0.03)


def test_what_begins_while_all_cores_are_busy_is_warm() -> None:
    cold = replace(COSTS, decode=Step(1, COSTS.decode.going_on))
    storm = replace(QUIET, rate=2 * QUIET.cores / COSTS.each(QUIET.batch_limit), deadline=5, seconds=60)

    warm, seldom = (len(simulate(each, storm).answered) for each in (COSTS, cold))

    assert seldom / warm == pytest.approx(1, rel=0.2)
