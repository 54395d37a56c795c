"""The simulated service beside the real one: `python -m benchmarks.capacity`, or `make capacity`.

What each step costs is measured while clients keep the service busy. From that alone the simulation says what becomes
of other loads, and each of them is then sent.
"""

import resource
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import BUNDLED
from benchmarks.growth import service_process
from benchmarks.model import ModelFile
from benchmarks.pictures import write_pictures
from benchmarks.processes import adopt_orphans, cpu_seconds
from benchmarks.queueing import FREE, Costs, Outcome, Setup, Step, simulate
from benchmarks.servers import OURS, SERVERS
from benchmarks.serving import Running, running
from benchmarks.storm import run_load
from benchmarks.storm_load import Sent, StormJob
from service.answers import ModelsAnswer
from service.cpus import usable_cpus

SHARES = (0.3, 0.5, 0.7, 0.8, 1.3, 2.0)
"""Of the rate of a closed loop."""

DEADLINE_MS = 1000

CLIENTS = 64

QUIET = 0.1
"""Share of the rate of a closed loop at which cores rest before nearly every request, and requests seldom meet."""

ANSWERED, REFUSED, LATE = 200, 429, 504


def main(
    size: Annotated[int, typer.Option(help="long side of the JPEGs, pixels")] = 500,
    seconds: Annotated[float, typer.Option(help="of each load")] = 15,
    rounds: Annotated[int, typer.Option(help="of all loads")] = 3,
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="ONNX file of the exporter")] = BUNDLED,
) -> None:
    """Predict 99th percentiles and refusals, and measure them."""
    adopt_orphans()
    cores = usable_cpus()
    seen: dict[float, list[Outcome]] = {share: [] for share in SHARES}
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
            run_load(job.model_copy(update={"clients": CLIENTS}), Path(folder))
            costs, limit, capacity = _measure(service, job, Path(folder), cores)
            for _ in range(rounds):
                for share in SHARES:
                    sent = run_load(job.model_copy(update={"rate": share * capacity}), Path(folder))
                    seen[share].append(_outcome(sent))
    Console(width=120).print(_told(costs, limit, cores, capacity))
    table = Table("load", "rate", "p50 ms, both", "p99 ms", "p99 by simulation", "of it", "refused", "by simulation")
    for share, outcomes in seen.items():
        rate = share * capacity
        told = simulate(costs, Setup(cores, limit, rate, 60, DEADLINE_MS / 1000))
        p99 = median(each.p99 for each in outcomes)
        table.add_row(
            f"{share:.0%}",
            f"{rate:.0f}/s",
            f"{1000 * median(each.p50 for each in outcomes):.0f} / {1000 * told.p50:.0f}",
            f"{1000 * p99:.0f}",
            f"{1000 * told.p99:.0f}",
            f"{told.p99 / p99:.2f}",
            f"{median(each.refused_share for each in outcomes):.1%}",
            f"{told.refused_share:.1%}",
        )
    Console(width=120).print(table)


def _told(costs: Costs, limit: int, cores: int, capacity: float) -> str:
    steps = {
        "decoding": costs.decode.going_on,
        f"inference in batches of {limit}": costs.run(limit) / limit,
        "HTTP": costs.http.going_on,
        "around a run": costs.around_run.going_on,
        "client": costs.client.going_on,
        "decoding in cold caches": costs.decode.woken,
        "HTTP of a loop that slept": costs.http.woken,
        "around a run in cold caches": costs.around_run.woken,
    }
    told = ", ".join(f"{what} {1000 * seconds:.2f}" for what, seconds in steps.items())
    return f"CPU ms: {told}; {capacity:.0f}/s in a closed loop, {cores / costs.each(limit):.0f}/s by these costs"


def _measure(service: Running, job: StormJob, folder: Path, cores: int) -> tuple[Costs, int, float]:
    """CPU time of each step, the batch limit, and pictures a second in a closed loop."""
    (served,) = ModelsAnswer.model_validate(_get(service, "/models")).models
    limit, curve = served.batch_limit, served.batch_curve
    busy = _used(job.model_copy(update={"clients": CLIENTS}), folder)
    capacity = len(busy.answered) / job.seconds
    quiet = _used(job.model_copy(update={"rate": QUIET * capacity}), folder)
    full = Costs(FREE, FREE, FREE, curve).run(limit) / limit
    costs = Costs(
        http=Step(quiet.loop, busy.loop),
        around_run=Step(max(0, quiet.threads - curve[0].seconds), max(0, busy.threads - full)),
        decode=Step(quiet.decoders, busy.decoders),
        curve=curve,
        client=Step(quiet.client, busy.client),
        variation=[each / mean(quiet.answered) for each in quiet.answered],
    )
    return replace(costs, used=min(1, capacity * costs.each(limit) / cores)), limit, capacity


@dataclass(frozen=True)
class _Used:
    """CPU seconds for each picture."""

    answered: list[float]
    """Seconds that each took."""
    loop: float
    threads: float
    decoders: float
    client: float


def _used(job: StormJob, folder: Path) -> _Used:
    root = service_process()
    decoders = root.children(recursive=True)

    def now() -> tuple[float, ...]:
        threads = {each.id: each.user_time + each.system_time for each in root.threads()}
        loop = threads.pop(root.pid)
        return loop, sum(threads.values()), cpu_seconds(decoders), _clients_cpu()

    before = now()
    answered = [each.seconds for each in run_load(job, folder) if each.status == ANSWERED]
    used = [(after - then) / len(answered) for after, then in zip(now(), before, strict=True)]
    return _Used(answered, *used)


def _clients_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _get(service: Running, path: str) -> object:
    return httpx.get(f"http://127.0.0.1:{service.port}{path}", trust_env=False).json()


def _outcome(sent: list[Sent]) -> Outcome:
    statuses = [each.status for each in sent]
    assert not set(statuses) - {ANSWERED, REFUSED, LATE}, set(statuses)
    answered = [each.seconds for each in sent if each.status == ANSWERED]
    return Outcome(answered, statuses.count(REFUSED), statuses.count(LATE))


if __name__ == "__main__":
    typer.run(main)
