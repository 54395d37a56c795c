"""Three times more requests than the service can answer: `python -m benchmarks.storm`, or `make storm`.

A closed loop, the storm, and the closed loop again, since machines drift. In the storm a fifth of the clients hang up
and the others' deadlines differ.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import mean, quantiles
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import BUNDLED
from benchmarks.growth import Watch, service_process
from benchmarks.model import ModelFile
from benchmarks.pictures import write_pictures
from benchmarks.processes import adopt_orphans
from benchmarks.servers import OURS, SERVERS
from benchmarks.serving import REPOSITORY, Running, running
from benchmarks.storm_load import HUNG_UP, Sent, StormJob
from service.cpus import usable_cpus

OK, REFUSED, EXPIRED = 200, 429, 504

LOOK_SECONDS = 2


def main(
    size: Annotated[int, typer.Option(help="long side of the JPEGs, pixels")] = 500,
    seconds: Annotated[float, typer.Option(help="of the storm")] = 30,
    times: Annotated[float, typer.Option(help="how many times the capacity")] = 3,
    clients: Annotated[int, typer.Option(help="of the closed loop")] = 64,
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="ONNX file of the exporter")] = BUNDLED,
) -> None:
    """Measure what the service still answers in a storm, and how soon it refuses the rest."""
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        pictures = Path(folder) / "pictures"
        write_pictures(pictures, size, None)
        sample = next(pictures.iterdir()).read_bytes()
        with running(SERVERS[OURS], Path(sys.prefix), ModelFile.read(model), usable_cpus(), sample) as service:

            def load(seconds: float, clients: int | None = None, rate: float | None = None) -> list[Sent]:
                job = StormJob(url=service.url, pictures=pictures, seconds=seconds, clients=clients, rate=rate)
                return run_load(job, Path(folder))

            load(2, clients)
            before = goodput(load(10, clients), 10)
            counted = counts_of(service)
            with Watch(service_process(), every=LOOK_SECONDS) as memory:
                storm = load(seconds, rate=times * before)
            counts = counts_of(service) - counted
            after = goodput(load(10, clients), 10)
    _report(storm, seconds, (before, after), counts, [each.mib for each in memory.looks])


def run_load(job: StormJob, folder: Path) -> list[Sent]:
    """Send a load from a process of its own, which keeps its files in the folder."""
    request, results = folder / "job.json", folder / "results"
    request.write_text(job.model_dump_json(), "utf-8")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.storm_load", str(request), str(results)], check=True, cwd=REPOSITORY
    )
    return [Sent.model_validate_json(line) for line in results.read_text("utf-8").splitlines()]


def goodput(sent: list[Sent], seconds: float) -> float:
    """Answers a second within the time of the load."""
    return sum(each.status == OK and each.ended <= seconds for each in sent) / seconds


def counts_of(service: Running) -> Counter[str]:
    """The service's own count of pictures by outcome."""
    text = httpx.get(f"http://127.0.0.1:{service.port}/metrics", trust_env=False).text
    found = re.findall(r'^stripmlp_images_total\{.*outcome="(\w+)".*\} (\S+)$', text, re.MULTILINE)
    counts: Counter[str] = Counter()
    for outcome, value in found:  # of each version
        counts[outcome] += int(float(value))
    return counts


def _report(
    storm: list[Sent], seconds: float, closed: tuple[float, float], counts: Counter[str], mib: list[float]
) -> None:
    statuses = Counter("hung up" if each.status == HUNG_UP else str(each.status) for each in storm)
    refusals = [1000 * each.seconds for each in storm if each.status == REFUSED]
    answers = [1000 * each.seconds for each in storm if each.status == OK]
    answered = goodput(storm, seconds)
    table = Table(title=f"{len(storm)} requests in {seconds:g} s", show_header=False)
    table.add_row("closed loop before, after", " and ".join(f"{rate:.0f}/s" for rate in closed))
    table.add_row("goodput", f"{answered:.0f}/s, {answered / mean(closed):.0%} of the closed loop")
    table.add_row("answers", ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))
    table.add_row("refused, ms", _percentiles(refusals))
    table.add_row("refused within 50 ms", f"{mean(each <= 50 for each in refusals):.2%}" if refusals else "-")
    table.add_row("answered, ms", _percentiles(answers))
    table.add_row("counted by the service", ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    table.add_row("sum of these", f"{counts.total()} of {len(storm)}")
    table.add_row("memory, MiB", f"{mib[0]:.0f} at first, {max(mib):.0f} at most, {mib[-1]:.0f} at last")
    Console().print(table)


def _percentiles(values: list[float]) -> str:
    if len(values) < 2:
        return "-"
    cuts = quantiles(values, n=100)
    return f"p50 {cuts[49]:.1f}, p95 {cuts[94]:.1f}, p99 {cuts[98]:.1f}"


if __name__ == "__main__":
    typer.run(main)
