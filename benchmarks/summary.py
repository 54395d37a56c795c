"""From the figures of every round to medians, floors and the targets of the project."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

from pydantic import BaseModel

from benchmarks.records import Bare, DecodeCost, OneClient, Row, SessionRate
from benchmarks.servers import OURS, PLAIN

TARGET_CLIENTS = 32

TARGET_SIZES = (32, 500)

SUMMED = {"requests", "errors", "wrong"}


class Floor(BaseModel):
    """Pictures per second that the cores could do if serving were free.

    Cores over the CPU time of one decode plus one picture's share of the best batch of a session with one thread.
    """

    size: int
    plain_decode_ms: float
    service_decode_ms: float
    session_ms: float
    plain: float
    """With the decode code that the peers use."""
    service: float
    """With the service's own."""


class Ratio(BaseModel):
    """One size at one number of clients: the service's throughput over the floors."""

    size: int
    clients: int
    of_plain_floor: float
    of_service_floor: float


class Tail(BaseModel):
    """The service's p99 beside a peer's, over every load that both had."""

    peer: str
    loads: int
    lower: int
    """In how many of them the service's p99 was the lower one."""
    worst_ratio: float
    """The largest p99 of the service over that of the peer."""
    worst_at: str


class Overhead(BaseModel):
    """Milliseconds of the service's median time beyond decode and inference done directly, for one client."""

    size: int
    ms: float


class Targets(BaseModel):
    """What the project set itself; each empty or missing where the run did not measure it."""

    throughput: list[Ratio]
    p99: list[Tail]
    one_client_overhead: list[Overhead]
    memory_ratio: float | None
    """Highest resident memory over every load, the service's over that of the plain FastAPI handler."""


def medians(rows: Sequence[Row]) -> list[Row]:
    """One row for each server and load: medians over the rounds, of counts the sum."""
    groups: defaultdict[tuple[int, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.size, row.clients, row.server].append(row)
    return [_median(group) for group in groups.values()]


def median_bare(rounds: Sequence[Bare]) -> Bare:
    """The median of each figure over the rounds."""
    first = rounds[0]
    sessions = [
        SessionRate(
            threads=rate.threads,
            batch=rate.batch,
            throughput=statistics.median(each.sessions[place].throughput for each in rounds),
            cpu_ms=statistics.median(each.sessions[place].cpu_ms for each in rounds),
        )
        for place, rate in enumerate(first.sessions)
    ]
    decodes = [
        DecodeCost(
            size=cost.size,
            plain_ms=statistics.median(each.decodes[place].plain_ms for each in rounds),
            service_ms=statistics.median(each.decodes[place].service_ms for each in rounds),
        )
        for place, cost in enumerate(first.decodes)
    ]
    return first.model_copy(update={"sessions": sessions, "decodes": decodes})


def floors(bare: Bare, cores: int) -> dict[int, Floor]:
    """Size -> its floors."""
    session_ms = min(rate.cpu_ms for rate in bare.sessions if rate.threads == 1)
    return {
        cost.size: Floor(
            size=cost.size,
            plain_decode_ms=cost.plain_ms,
            service_decode_ms=cost.service_ms,
            session_ms=session_ms,
            plain=1000 * cores / (cost.plain_ms + session_ms),
            service=1000 * cores / (cost.service_ms + session_ms),
        )
        for cost in bare.decodes
    }


def best_session(bare: Bare) -> SessionRate:
    """The threads and the batch that give the most pictures per second."""
    return max(bare.sessions, key=lambda rate: rate.throughput)


def targets(rows: Sequence[Row], floor: dict[int, Floor], one_client: Sequence[OneClient]) -> Targets:
    """What became of the targets, out of the medians."""
    ours = {(row.size, row.clients): row for row in rows if row.server == OURS}
    ratios = [
        Ratio(
            size=size,
            clients=TARGET_CLIENTS,
            of_plain_floor=row.throughput / floor[size].plain,
            of_service_floor=row.throughput / floor[size].service,
        )
        for size in TARGET_SIZES
        if (row := ours.get((size, TARGET_CLIENTS)))
    ]
    peers = dict.fromkeys(row.server for row in rows if row.server != OURS)
    tails = [tail for peer in peers if (tail := _tail(peer, ours, rows))]
    return Targets(
        throughput=ratios,
        p99=tails,
        one_client_overhead=[Overhead(size=each.size, ms=each.overhead_ms) for each in one_client],
        memory_ratio=_memory_ratio(rows),
    )


def _tail(peer: str, ours: dict[tuple[int, int], Row], rows: Sequence[Row]) -> Tail | None:
    pairs = [
        (ours[load].p99_ms, row.p99_ms, load)
        for row in rows
        if row.server == peer and (load := (row.size, row.clients)) in ours
    ]
    ratios = [(mine / theirs, load) for mine, theirs, load in pairs if mine and theirs]
    if not ratios:
        return None
    worst, (size, clients) = max(ratios)
    return Tail(
        peer=peer,
        loads=len(ratios),
        lower=sum(ratio < 1 for ratio, _ in ratios),
        worst_ratio=worst,
        worst_at=f"{size} px, {clients} clients",
    )


def _memory_ratio(rows: Sequence[Row]) -> float | None:
    highest = {name: max((row.rss_mib for row in rows if row.server == name), default=0.0) for name in (OURS, PLAIN)}
    return highest[OURS] / highest[PLAIN] if all(highest.values()) else None


def _median(group: Sequence[Row]) -> Row:
    changed: dict[str, float | int | None] = {"rounds": len(group), "round": 0}
    for name in Row.model_fields.keys() - {"server", "size", "clients", "round", "rounds"}:
        values = [value for row in group if (value := getattr(row, name)) is not None]
        merge: Callable[[list[float]], float] = sum if name in SUMMED else statistics.median
        changed[name] = merge(values) if values else None
    return group[0].model_copy(update=changed)
