"""A soak's verdicts: each is kept by a service as it should be, and not by one that is not."""

from collections import Counter

import pytest

from benchmarks import verdicts
from benchmarks.storm_load import HUNG_UP, Sent

SECONDS = 1800.0

RATE = 10.0

GOOD = 0.9

KINDS = {"reloads": 3, "bombs": 3}


def load(share: dict[int, float], *, late: float = 0, slower: float = 1) -> list[Sent]:
    """Requests at `RATE` for half an hour.

    Args:
        share: how many of them have which status; what is left has 200.
        late: seconds by which each is sent after its time.
        slower: how many times longer the answers of the last five minutes take.
    """
    count = round(RATE * SECONDS)
    statuses = [status for status, each in share.items() for _ in range(round(each * count))]
    statuses += [200] * (count - len(statuses))
    sent = []
    for number in range(count):
        begin = number / RATE + late
        seconds = 0.1 * (slower if begin > SECONDS - 300 else 1)
        status = statuses[number * 7919 % count]  # spread over the time; a prime that does not divide the count
        sent.append(Sent(status=status, seconds=seconds, ended=begin + seconds))
    return sent


ORDINARY = {HUNG_UP: 0.1, 422: 0.09, 429: 0.01, 504: 0.005}


def test_an_ordinary_load_keeps_to_everything() -> None:
    sent = load(ORDINARY)

    assert verdicts.load_sent(sent, RATE, SECONDS).kept
    assert verdicts.good_answered(sent, GOOD, SECONDS).kept
    assert verdicts.few_turned_away(sent, SECONDS).kept
    assert verdicts.no_failure(sent).kept
    assert verdicts.latency(sent, SECONDS, 100, 100).kept


def test_a_load_that_lags_or_is_too_small_was_not_sent() -> None:
    assert not verdicts.load_sent(load(ORDINARY, late=20), RATE, SECONDS).kept
    assert not verdicts.load_sent(load(ORDINARY)[: round(0.98 * RATE * SECONDS)], RATE, SECONDS).kept


@pytest.mark.parametrize("refused", [422, 429, 504, 500])
def test_a_tenth_of_the_good_pictures_may_not_be_missing(refused: int) -> None:
    share = ORDINARY | {refused: ORDINARY.get(refused, 0) + 0.09}

    assert not verdicts.good_answered(load(share), GOOD, SECONDS).kept


@pytest.mark.parametrize(("refused", "late"), [(0.06, 0), (0, 0.06), (0.03, 0.03)])
def test_refusals_and_late_answers_are_bounded_together(refused: float, late: float) -> None:
    assert not verdicts.few_turned_away(load({429: refused, 504: late}), SECONDS).kept


@pytest.mark.parametrize(("refused", "kept"), [(0.08, True), (0.12, False)])
def test_short_runs_with_their_many_versions_may_refuse_more(refused: float, *, kept: bool) -> None:
    sent = load({429: refused})

    assert verdicts.few_turned_away(sent, 180).kept is kept
    assert verdicts.good_answered(sent, 1, 180).kept is kept


def test_hardly_any_client_that_stays_makes_refusals_many() -> None:
    assert not verdicts.few_turned_away(load({HUNG_UP: 0.9, 429: 0.01}), SECONDS).kept


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_one_failure_is_enough(status: int) -> None:
    sent = load(ORDINARY)

    assert not verdicts.no_failure([*sent, Sent(status=status, seconds=0.1, ended=1)]).kept


def test_trouble_has_to_be_of_each_kind() -> None:
    assert verdicts.all_trouble(KINDS).kept
    assert not verdicts.all_trouble(KINDS | {"bombs": 0}).kept


@pytest.mark.parametrize(("counted", "kept"), [(9, False), (10, True), (11, False)])
def test_each_picture_is_counted_neither_less_nor_more_than_once(counted: int, *, kept: bool) -> None:
    assert verdicts.counts_add_up(Counter(ok=counted - 1, broken=1), 10).kept is kept


@pytest.mark.parametrize(("after", "kept"), [(10, True), (11, True), (12, False)])
def test_one_more_is_more(after: int, *, kept: bool) -> None:
    assert verdicts.no_more("threads", 11, after).kept is kept


def test_some_more_may_be_allowed() -> None:
    assert verdicts.no_more("threads", 11, 17, spare=6).kept
    assert not verdicts.no_more("threads", 11, 18, spare=6).kept


def memory(per_hour: float, seconds: float = SECONDS, swing: float = 10) -> verdicts.Verdict:
    """The verdict on 300 MiB that go up and down every five minutes, and grow by this much."""
    times = [3.0 * number for number in range(int(seconds / 3))]
    mib = [300 + per_hour * when / 3600 + swing * (number // 50 % 2) for number, when in enumerate(times)]
    return verdicts.memory("it", times, mib, seconds)


def test_memory_stands_still() -> None:
    assert memory(0).kept
    assert memory(-50).kept
    assert not memory(50).kept


def test_memory_that_is_hardly_known_is_not_kept() -> None:
    assert not memory(0, swing=3000).kept


def test_what_happens_before_the_service_is_warm_is_no_growth() -> None:
    times = [3.0 * number for number in range(600)]

    assert verdicts.memory("it", times, [min(300, 100 + when) for when in times], SECONDS).kept


def test_slower_answers_at_the_end_are_seen() -> None:
    assert verdicts.latency(load(ORDINARY, slower=1.1), SECONDS, 100, 100).kept
    assert not verdicts.latency(load(ORDINARY, slower=1.3), SECONDS, 100, 100).kept


def test_a_short_run_says_that_it_judges_neither_memory_nor_times() -> None:
    short = [each for each in load(ORDINARY, slower=9) if each.ended < 180]
    for verdict in memory(500, seconds=180), verdicts.latency(short, 180, 100, 100):
        assert verdict.kept
        assert "too short to judge" in verdict.seen
