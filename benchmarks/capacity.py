"""The simulated service beside the real one: `python -m benchmarks.capacity`, or `make capacity`.

What each step costs is measured at some loads. From that alone the simulation says what becomes of the requests of
others, and these very requests are then sent. As machines drift, the speed is measured again before and after each.
"""

import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import BUNDLED
from benchmarks.answers import batches
from benchmarks.growth import service_process
from benchmarks.model import ModelFile
from benchmarks.pictures import write_pictures
from benchmarks.processes import adopt_orphans, cpu_seconds
from benchmarks.queueing import Cost, Costs, Outcome, Setup, simulate
from benchmarks.servers import OURS, SERVERS
from benchmarks.serving import Running, running
from benchmarks.storm import goodput, run_load
from benchmarks.storm_load import Sent, StormJob, times
from service.answers import ModelsAnswer
from service.cpus import usable_cpus

SHARES = (0.3, 0.5, 0.7, 0.8, 1.3, 2.0)
"""Of the rate of a closed loop."""

DEADLINE_MS = 1000

CLIENTS = 64

BETWEEN_SECONDS = 4
"""Of the closed loops before and after each load, which tell how fast the machine is at the time."""

LESS = (0.1, 0.4, 0.9)
"""Shares of the rate of a closed loop at which costs are measured, beside that one. With the first, requests seldom
meet."""

ANSWERED, REFUSED, LATE = 200, 429, 504


@dataclass(frozen=True)
class Load:
    """One that was sent, and simulated."""

    rate: float
    """Requests a second."""
    seen: Outcome
    told: Outcome


def main(
    size: Annotated[int, typer.Option(help="long side of the JPEGs, pixels")] = 500,
    seconds: Annotated[float, typer.Option(help="of each load")] = 15,
    rounds: Annotated[int, typer.Option(help="of all loads")] = 5,
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="ONNX file of the exporter")] = BUNDLED,
) -> None:
    """Predict 99th percentiles and refusals, and measure them."""
    adopt_orphans()
    cores = usable_cpus()
    loads: dict[float, list[Load]] = {share: [] for share in SHARES}
    with tempfile.TemporaryDirectory(prefix="capacity-") as folder:
        pictures = Path(folder) / "pictures"
        write_pictures(pictures, size, None)
        sample = next(pictures.iterdir()).read_bytes()
        with running(SERVERS[OURS], Path(sys.prefix), ModelFile.read(model), cores, sample) as service:
            job = StormJob(
                url=service.url,
                pictures=pictures,
                seconds=seconds,
                at_random=True,
                deadlines_ms=(DEADLINE_MS,),
                hang_up=0,
            )
            _closed(job, Path(folder))
            costs, limit, capacity = _measure(service, job, Path(folder), cores)
            before = _closed(job, Path(folder))
            for number in range(rounds):
                for share in SHARES:
                    load = job.model_copy(update={"rate": share * before, "seed": number})
                    seen = _outcome(run_load(load, Path(folder)))
                    after = _closed(job, Path(folder))
                    by_now = replace(costs, speed=costs.speed * mean((before, after)) / capacity)
                    told = simulate(by_now, Setup(cores, limit, list(times(load)), DEADLINE_MS / 1000))
                    loads[share].append(Load(share * before, seen, told))
                    before = after
    console = Console(width=120)
    console.print(_told(costs, limit, cores, capacity))
    console.print(_table(loads))


def _table(loads: dict[float, list[Load]]) -> Table:
    """Medians over the rounds."""
    table = Table("load", "rate", "p50 ms, both", "p99 ms, both", "p99, of it", "refused, both", "refused, of it")
    for share, each in loads.items():
        p50, p50_told = _both(each, lambda outcome: outcome.p50)
        p99, p99_told = _both(each, lambda outcome: outcome.p99)
        refused, refused_told = _both(each, lambda outcome: outcome.refused_share)
        table.add_row(
            f"{share:.0%}",
            f"{median(load.rate for load in each):.0f}/s",
            f"{1000 * p50:.0f} / {1000 * p50_told:.0f}",
            f"{1000 * p99:.0f} / {1000 * p99_told:.0f}",
            f"{median(load.told.p99 / load.seen.p99 for load in each):.2f}",
            f"{refused:.1%} / {refused_told:.1%}",
            f"{refused_told / refused:.2f}" if refused else "-",
        )
    return table


def _both(loads: Sequence[Load], figure: Callable[[Outcome], float]) -> tuple[float, float]:
    """Its medians, seen and told."""
    return median(figure(load.seen) for load in loads), median(figure(load.told) for load in loads)


def _told(costs: Costs, limit: int, cores: int, capacity: float) -> str:
    lines = [
        f"with {each.in_work:.1f} requests in work and batches of {each.batch:.1f}, CPU ms a picture: "
        f"decoding {1000 * each.decode:.2f}, run {1000 * each.run:.2f}, HTTP {1000 * each.http:.2f}, "
        f"client {1000 * each.client:.2f}"
        for each in costs.by_load
    ]
    by_these = cores / costs.each(limit)
    return "\n".join([*lines, f"{capacity:.0f}/s in a closed loop, {by_these:.0f}/s by these costs"])


def _measure(service: Running, job: StormJob, folder: Path, cores: int) -> tuple[Costs, int, float]:
    """CPU time of each step, the batch limit, and pictures a second in a closed loop."""
    (served,) = ModelsAnswer.model_validate_json(
        httpx.get(f"http://127.0.0.1:{service.port}/models", trust_env=False).text
    ).models
    busy = _used(service, job.model_copy(update={"clients": CLIENTS}), folder)
    less = [_used(service, job.model_copy(update={"rate": share * _closed(job, folder)}), folder) for share in LESS]
    # The clients of a closed loop send in bursts, which cost the event loop and them less than what comes at random.
    last = less[-1].cost
    more = max(busy.cost.in_work, 1 + last.in_work)  # costs have to ascend, even if the machine was slow just now
    saturated = replace(busy.cost, in_work=more, http=last.http, client=last.client)
    costs = Costs(
        by_load=[*(each.cost for each in less), saturated],
        variation=[each / mean(less[0].answered) for each in less[0].answered],
        speed=min(1, busy.goodput * Costs([busy.cost]).each(served.batch_limit) / cores),
    )
    return costs, served.batch_limit, busy.goodput


@dataclass(frozen=True)
class _Used:
    """By a load."""

    answered: list[float]
    """Seconds that each took."""
    goodput: float
    """Answers a second, while requests were sent."""
    cost: Cost


def _used(service: Running, job: StormJob, folder: Path) -> _Used:
    root = service_process()
    decoders = root.children(recursive=True)

    def now() -> tuple[float, ...]:
        threads = {each.id: each.user_time + each.system_time for each in root.threads()}
        loop = threads.pop(root.pid)
        return *batches(service.port), loop, sum(threads.values()), cpu_seconds(decoders), _clients_cpu()

    before = now()
    sent = run_load(job, folder)
    pictures, runs, *used = (after - then for after, then in zip(now(), before, strict=True))
    answered = [each.seconds for each in sent if each.status == ANSWERED]
    each = [seconds / len(answered) for seconds in used]
    in_work = job.clients or 1 + sum(answered) / job.seconds  # what comes at random finds the mean beside itself
    return _Used(answered, goodput(sent, job.seconds), Cost(in_work, pictures / runs, *each))


def _closed(job: StormJob, folder: Path) -> float:
    """Answers a second that a closed loop gets now."""
    closed = job.model_copy(update={"clients": CLIENTS, "seconds": BETWEEN_SECONDS})
    return goodput(run_load(closed, folder), closed.seconds)


def _clients_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _outcome(sent: list[Sent]) -> Outcome:
    statuses = [each.status for each in sent]
    assert not set(statuses) - {ANSWERED, REFUSED, LATE}, set(statuses)
    answered = [each.seconds for each in sent if each.status == ANSWERED]
    return Outcome(answered, statuses.count(REFUSED), statuses.count(LATE))


if __name__ == "__main__":
    typer.run(main)
