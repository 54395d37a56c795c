"""What a soak judges: each thing that was asked of the service, what was seen of it, and whether it kept to it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, quantiles

from benchmarks.slope import slope
from benchmarks.storm_load import HUNG_UP, Sent

ALLOWED = {200, 413, 415, 422, 429, 504, HUNG_UP}
"""504 is what clients with short deadlines ask for."""

SENT = 0.99
"""Least share of the load asked for that has to be on its way in time: a load that lags is another load."""

MISSING, MISSING_IN_SHORT = 0.05, 0.1
"""Most of the good pictures, of clients that stay, that may go without a class, and most requests that may be refused
for want of time, or late. Half an hour had 2 %; short runs 4 to 6 %, as a version is loaded in them every 20 s, not
75."""

WARM_SHARE, WARM_LEAST = 0.2, 30
"""Of the time, and seconds, in which memory may grow: every decoder has to have seen a bomb."""

GROWN = 0.2
"""Share of the memory in use that may at worst have been added in the run. The ups and downs of half an hour, which are
decoders that meet bombs, leave the interval's upper end at a tenth to a sixth."""

LONG_SECONDS = 1800
"""Shorter runs cannot tell growth from those ups and downs."""

COMPARED_SECONDS = 300
"""Of the first and the last answers."""

LATENCY_SECONDS = 3 * COMPARED_SECONDS

SLOWER = 1.2

TOO_SHORT = " (too short to judge)"


@dataclass(frozen=True)
class Verdict:
    """One thing that was asked of the service, and whether it kept to it."""

    asked: str
    seen: str
    kept: bool


def load_sent(sent: Sequence[Sent], rate: float, seconds: float) -> Verdict:
    """Whether the load was the one that was asked for, in requests a second."""
    in_time = sum(each.ended - each.seconds < seconds for each in sent)
    return Verdict("the load is sent", f"{in_time / seconds:.0f}/s of {rate:.0f}/s", in_time >= SENT * rate * seconds)


def good_answered(sent: Sequence[Sent], good: float, seconds: float) -> Verdict:
    """Whether good pictures, which are this share of all, were classified."""
    asked = good * len(_stayed(sent))
    answered = sum(each.status == 200 for each in sent)
    return Verdict(
        "good pictures are classified",
        f"{answered} of {asked:.0f}: {_statuses(sent)}",
        answered >= (1 - _missing(seconds)) * asked,
    )


def few_turned_away(sent: Sequence[Sent], seconds: float) -> Verdict:
    """Whether refusals and expired deadlines are few, at a load that the service can answer."""
    stayed = _stayed(sent)
    away = sum(each.status in (429, 504) for each in stayed)
    return Verdict("few are refused or late", f"{away} of {len(stayed)}", away <= _missing(seconds) * len(stayed))


def no_failure(sent: Sequence[Sent]) -> Verdict:
    """Whether no answer accuses the service."""
    failures = sum(each.status not in ALLOWED for each in sent)
    return Verdict("no 5xx but 504", f"{failures} of {len(sent)}", failures == 0)


def all_trouble(done: Mapping[str, int]) -> Verdict:
    """Whether each kind of trouble came."""
    return Verdict(
        "trouble of each kind", ", ".join(f"{count} {deed}" for deed, count in done.items()), all(done.values())
    )


def counts_add_up(counts: Counter[str], pictures: int) -> Verdict:
    """Whether the service has counted each picture that was sent once."""
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    seen = f"{counts.total()} counted of {pictures} sent: {outcomes}"
    return Verdict("every picture is counted once", seen, counts.total() == pictures)


def no_more(what: str, before: int, after: int, spare: int = 0) -> Verdict:
    """Whether a number has not grown, by more than so many."""
    seen = f"{before} before, {after} after" + (f", {spare} more may be" if spare else "")
    return Verdict(f"no more {what}", seen, after <= before + spare)


def memory(what: str, times: Sequence[float], mib: Sequence[float], seconds: float) -> Verdict:
    """Whether memory stands still once it is warm."""
    warm = max(WARM_SHARE * seconds, WARM_LEAST)
    later = [(when, value) for when, value in zip(times, mib, strict=True) if when > warm]
    line = slope([when for when, _ in later], [value for _, value in later])
    values = [value for _, value in later]
    half = len(values) // 2
    least = ", ".join(f"{value:.0f}" for value in line.least)
    seen = (
        f"{mib[0]:.0f} MiB at first, {max(mib):.0f} at most, {mib[-1]:.0f} at last; after warm-up {least} at "
        f"least, {line.per_hour:+.1f} MiB an hour, "
        f"95 % within {line.low:+.1f} and {line.high:+.1f}; mean of the halves {mean(values[:half]):.0f} and "
        f"{mean(values[half:]):.0f}"
    )
    if seconds < LONG_SECONDS:
        return Verdict(f"memory of {what}", seen + TOO_SHORT, kept=True)
    return Verdict(f"memory of {what} does not grow", seen, line.is_zero(seconds / 3600, GROWN * mean(line.least)))


def latency(sent: Sequence[Sent], seconds: float, before: float, after: float) -> Verdict:
    """Whether answers are as fast at the end as they were at first.

    Args:
        sent: the load.
        seconds: of it.
        before: requests a second of a closed loop before the load, told beside the answer, as the machine may have
            become slower, and at four fifths of what it can do that shows.
        after: the same after the load.
    """
    part = min(COMPARED_SECONDS, seconds / 3)
    first = _p99([each.seconds for each in sent if each.status == 200 and each.ended < part])
    last = _p99([each.seconds for each in sent if each.status == 200 and each.ended > seconds - part])
    sixths = [
        [each.seconds for each in sent if each.status == 200 and number <= 6 * each.ended / seconds < number + 1]
        for number in range(6)
    ]
    between = ", ".join(f"{1000 * _p99(each):.0f}" for each in sixths if len(each) > 1)
    seen = (
        f"p99 {1000 * first:.0f} ms in the first {part:.0f} s, {1000 * last:.0f} ms in the last (sixths of the run: "
        f"{between}); a closed loop had {before:.0f}/s before and {after:.0f}/s after"
    )
    if seconds < LATENCY_SECONDS:
        return Verdict("as fast at the end", seen + TOO_SHORT, kept=True)
    return Verdict("as fast at the end", seen, last <= SLOWER * first)


def _missing(seconds: float) -> float:
    return MISSING if seconds >= LONG_SECONDS else MISSING_IN_SHORT


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98]


def _stayed(sent: Sequence[Sent]) -> list[Sent]:
    return [each for each in sent if each.status != HUNG_UP]


def _statuses(sent: Sequence[Sent]) -> str:
    counts = Counter("hung up" if each.status == HUNG_UP else str(each.status) for each in sent)
    return ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
