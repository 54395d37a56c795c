"""One server in one round: start it, check its answers, load it, measure it, stop it.

Run as `python -m benchmarks.drive JOB RESULTS`, a process of its own because a server may need a network namespace.
"""

import signal
import sys
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.answers import batches, wrong_answers
from benchmarks.load import Generator, body
from benchmarks.model import ModelFile
from benchmarks.records import WARM_CLIENTS, Job, PictureSet, Row
from benchmarks.servers import OURS, SERVERS
from benchmarks.serving import Running, running

WAVES = 2
"""A load lasts at least as long as so many answers for every client take at the floor."""

IDLE_PATIENCE = 60.0


def measure(started: Running, job: Job, pictures: PictureSet, bodies: Path, clients: int, seconds: float) -> Row:
    """One load, with what the server's process tree used meanwhile."""
    processes.wait_idle(IDLE_PATIENCE)
    tells_batches = job.server == OURS
    batches_before = batches(started.port) if tells_batches else (0.0, 0.0)
    tree_before = processes.cpu_seconds(processes.descendants())
    machine_before, own_before, begin = processes.machine_cpu_seconds(), processes.own_cpu_seconds(), time.monotonic()
    generator = Generator(started.server, started.url, bodies, clients, seconds)
    rss = server_cpu = other_cpu = wall = 0.0

    def look() -> None:
        nonlocal rss
        rss = max(rss, processes.rss_mib(processes.descendants(without=[generator.pid])))

    def close() -> None:
        nonlocal server_cpu, other_cpu, wall
        server_cpu = processes.cpu_seconds(processes.descendants(without=[generator.pid])) - tree_before
        own_cpu = processes.own_cpu_seconds() - own_before
        other_cpu = processes.machine_cpu_seconds() - machine_before - server_cpu - own_cpu
        wall = time.monotonic() - begin
        look()

    load = generator.wait(look, close)
    ran, runs = batches(started.port) if tells_batches else (0.0, 0.0)
    return Row(
        server=job.server,
        size=pictures.size,
        clients=clients,
        round=job.round,
        requests=load.requests,
        errors=load.errors,
        wrong=0,
        throughput=load.requests / load.seconds,
        p50_ms=load.p50_ms,
        p95_ms=load.p95_ms,
        p99_ms=load.p99_ms,
        mean_batch=(ran - batches_before[0]) / (runs - batches_before[1]) if runs > batches_before[1] else None,
        cpu_ms=1000 * server_cpu / max(1, load.requests),
        server_cores=server_cpu / wall,
        load_cores=load.load_cpu_seconds / wall,
        other_cores=(other_cpu - load.load_cpu_seconds) / wall,
        rss_mib=rss,
        pss_mib=processes.pss_mib(processes.descendants()),
        ready_seconds=started.ready_seconds,
    )


def drive(job: Job) -> list[Row]:
    """Every load of the job, by size and clients."""
    server, rows = SERVERS[job.server], []
    first = job.sets[0]
    sample = (Path(first.folder) / min(first.labels)).read_bytes()
    model = ModelFile.read(Path(job.model))
    with running(server, Path(job.environment), model, job.cores, sample) as started:
        for pictures in job.sets:
            bodies = started.scratch / f"bodies-{pictures.size}"
            bodies.mkdir()
            for number, name in enumerate(sorted(pictures.labels)):
                (bodies / str(number)).write_bytes(body(server, (Path(pictures.folder) / name).read_bytes()))
            wrong = wrong_answers(started, pictures)
            if job.warm_seconds:
                measure(started, job, pictures, bodies, WARM_CLIENTS, job.warm_seconds)
            for clients in job.clients:
                seconds = max(job.seconds, WAVES * clients / pictures.floor)
                row = measure(started, job, pictures, bodies, clients, seconds)
                rows.append(row.model_copy(update={"wrong": wrong}))
    return rows


def main() -> None:
    """Read the job, write the rows, a line of JSON each."""
    # So that the server is stopped then too; a shell's background job would hand down an ignored SIGINT.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    processes.adopt_orphans()
    job, results = Path(sys.argv[1]), Path(sys.argv[2])
    rows = drive(Job.model_validate_json(job.read_text("utf-8")))
    results.write_text("".join(row.model_dump_json() + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
