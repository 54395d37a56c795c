"""What a single client pays for the service: a request against decoding and inference in this process, in turns.

Run as `python -m benchmarks.one_client JOB RESULTS`, with the same job file as `drive`.
"""

import http.client
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from benchmarks.bare import service_decode
from benchmarks.model import ModelFile
from benchmarks.peers.common import Model
from benchmarks.processes import adopt_orphans
from benchmarks.records import Job, OneClient, PictureSet
from benchmarks.servers import SERVERS
from benchmarks.serving import Running, running

BLOCK = 10
"""Pictures that one way gets before it is the next one's turn; with single ones, each would find the caches cold."""

MOST_BLOCKS = 50
"""`Job.seconds` may end it before."""


def measure(started: Running, model: ModelFile, pictures: PictureSet, cores: int, seconds: float) -> OneClient:
    """One size: blocks of pictures are classified directly with one thread, with all threads, and by the service.

    The client is the standard library's, on a kept connection; its own time counts as the service's.
    """
    jpegs = cycle([(Path(pictures.folder) / name).read_bytes() for name in sorted(pictures.labels)])
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=60)

    def direct(threads: int) -> Callable[[bytes], object]:
        session = Model(str(model.path), threads)
        return lambda jpeg: session.infer(service_decode(jpeg, model.artifact.preprocessing)[None])

    def ask(jpeg: bytes) -> None:
        connection.request("POST", started.server.path, jpeg, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        text = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the service answered {response.status}: {text[:300]!r}")

    ways = (direct(1), direct(cores), ask)
    times: list[list[float]] = [[], [], []]
    end = time.monotonic() + seconds
    for number in range(MOST_BLOCKS):
        if number and time.monotonic() > end:
            break
        block = list(islice(jpegs, BLOCK))
        for way, durations in zip(ways, times, strict=True):
            durations += [_milliseconds(way, jpeg) for jpeg in block]
    connection.close()
    single, several, service = map(statistics.median, times)
    return OneClient(
        size=pictures.size,
        pictures=len(times[0]),
        direct_one_thread_ms=single,
        direct_all_threads_ms=several,
        service_ms=service,
    )


def _milliseconds(way: Callable[[bytes], object], jpeg: bytes) -> float:
    begin = time.perf_counter()
    way(jpeg)
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    """Read the job, write the figures, a line of JSON for each size."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text("utf-8"))
    adopt_orphans()
    model = ModelFile.read(Path(job.model))
    sample = (Path(job.sets[0].folder) / min(job.sets[0].labels)).read_bytes()
    with running(SERVERS[job.server], Path(job.environment), model, job.cores, sample) as started:
        figures = [measure(started, model, pictures, job.cores, job.seconds) for pictures in job.sets]
    Path(sys.argv[2]).write_text("".join(each.model_dump_json() + "\n" for each in figures), "utf-8")


if __name__ == "__main__":
    main()
