"""The simulated service, beside what is known of such queues."""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.queueing import Cost, Costs, Setup, simulate
from benchmarks.storm_load import StormJob, times


def at_random(rate: float, seconds: float) -> list[float]:
    """Times of a Poisson process."""
    return list(times(StormJob(url="", pictures=Path(), rate=rate, seconds=seconds, at_random=True)))


QUIET = Setup(cores=2, batch_limit=4, arrivals=at_random(0.5, 200), deadline=10)

ALONE = Cost(in_work=1, batch=1, http=0.005, run=0.011, decode=0.006)
BUSY = Cost(in_work=16, batch=4, http=0.0015, run=0.0075, decode=0.004)

COSTS = Costs([ALONE, BUSY])


def test_alone_a_request_takes_what_its_steps_take() -> None:
    outcome = simulate(COSTS, QUIET)

    assert outcome.p50 == pytest.approx(0.005 + 0.006 + 0.011)
    assert (outcome.refused, outcome.late) == (0, 0)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_core_and_no_batches_wait_as_pollaczek_and_khinchine_say(load: float) -> None:
    seconds = 0.01
    one = Setup(cores=1, batch_limit=1, arrivals=at_random(load / seconds, 200), deadline=1000, max_queue=10**6)

    outcome = simulate(Costs([Cost(in_work=1, batch=1, http=0, run=seconds, decode=0)]), one)

    # M/D/1: half the load, over what is left of it, times the service time.
    assert mean(outcome.answered) - seconds == pytest.approx(seconds * load / (2 * (1 - load)), rel=0.1)


def test_requests_that_take_longer_come_in_turn() -> None:
    outcome = simulate(replace(COSTS, variation=(0.5, 1.5)), QUIET)

    small, large = (0.005 + variation * (0.006 + 0.011) for variation in (0.5, 1.5))
    assert sorted(outcome.answered)[len(outcome.answered) // 4] == pytest.approx(small)
    assert sorted(outcome.answered)[len(outcome.answered) * 3 // 4] == pytest.approx(large)


def test_what_gathers_while_all_cores_decode_runs_when_it_has_waited_for_long_enough() -> None:
    """The second picture is decoded for so long that the first one would wait for it."""
    slow = replace(COSTS, variation=(1, 1000, 1000))
    close = Setup(cores=2, batch_limit=4, arrivals=[0, 0.001, 0.002], deadline=100)

    outcome = simulate(slow, close)

    assert len(outcome.answered) >= 3
    assert min(outcome.answered) < 0.2


def test_every_request_has_one_end_and_a_tight_queue_refuses_what_is_too_much() -> None:
    capacity = QUIET.cores / COSTS.each(QUIET.batch_limit)
    storm = replace(QUIET, arrivals=at_random(2 * capacity, 60), deadline=0.5)

    outcome = simulate(COSTS, storm)

    total = len(outcome.answered) + outcome.refused + outcome.late
    assert total == len(storm.arrivals)
    assert 0.75 * capacity < len(outcome.answered) / 60 <= capacity  # refusing takes some of it
    assert max(outcome.answered) <= storm.deadline
    assert simulate(COSTS, storm) == outcome


def test_batches_between_those_that_were_measured_are_in_proportion() -> None:
    assert COSTS.run(1) == 0.011
    assert COSTS.run(2) == pytest.approx(0.011 + (0.03 - 0.011) / 3)
    assert COSTS.run(8) == pytest.approx(0.06)
    assert COSTS.each(4) == pytest.approx(0.0015 + 0.004 + 0.0075)


def test_costs_between_loads_go_by_the_logarithm_of_what_is_in_work() -> None:
    assert COSTS.at(0) == replace(ALONE, in_work=0)
    assert COSTS.at(4).http == pytest.approx((0.005 + 0.0015) / 2)
    assert COSTS.at(4).decode == pytest.approx((0.006 + 0.004) / 2)
    assert COSTS.at(100) == replace(BUSY, in_work=100)


def storm_of(answered: Costs) -> Setup:
    """Twice what can be done, for a minute."""
    return replace(QUIET, arrivals=at_random(2 * QUIET.cores / answered.each(QUIET.batch_limit), 60), deadline=1)


def test_slower_cores_answer_so_much_less() -> None:
    refusals_are_free = Costs([replace(each, http=0) for each in COSTS.by_load])
    storm = storm_of(refusals_are_free)

    whole, part = (len(simulate(replace(refusals_are_free, speed=speed), storm).answered) for speed in (1, 0.8))

    assert part / whole == pytest.approx(0.8, rel=0.03)


def test_refusing_takes_time_too() -> None:
    """Of the event loop two thirds of what a picture takes: reading and answering."""
    per_picture, per_refusal = COSTS.each(QUIET.batch_limit), 2 / 3 * BUSY.http

    outcome = simulate(COSTS, storm_of(COSTS))

    busy = len(outcome.answered) * per_picture + outcome.refused * per_refusal
    assert busy == pytest.approx(60 * QUIET.cores, rel=0.03)


def test_what_comes_while_much_is_in_work_costs_what_it_costs_then() -> None:
    slow_alone = Costs([replace(ALONE, decode=1), BUSY])
    storm = replace(QUIET, arrivals=at_random(2 * QUIET.cores / COSTS.each(QUIET.batch_limit), 60), deadline=5)

    many, at_first_slow = (len(simulate(each, storm).answered) for each in (COSTS, slow_alone))

    assert at_first_slow / many == pytest.approx(1, rel=0.2)


def test_two_runs_share_what_has_gathered() -> None:
    """Four pictures come at once; when the last is decoded both cores are free, and each runs two of them."""
    four = Setup(cores=2, batch_limit=4, arrivals=[0, 0, 0, 0], deadline=10)

    outcome = simulate(Costs([Cost(in_work=1, batch=1, http=0, run=1, decode=0.001)]), four)

    assert max(outcome.answered) == pytest.approx(2, rel=0.01)
