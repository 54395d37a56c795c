"""A closed loop of HTTP clients: `wrk` as a process of its own, each connection sending the next picture at once."""

import math
import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.records import Load
from benchmarks.servers import Server

SCRIPT = Path(__file__).with_name("rotate.lua")

TIMEOUT = 60
"""Seconds; a later answer counts as an error."""

BOUNDARY = "bench-7MA4YWxkTrZu0gW"

ADVICE = "wrk is missing. It is the package 'wrk' of Debian, Ubuntu, Fedora and Homebrew: apt-get install wrk"

Histogram = dict[int, int]
"""Microseconds -> how many answers took so long."""


def require_wrk() -> None:
    """End the program with advice where there is no `wrk`."""
    if shutil.which("wrk") is None:
        raise SystemExit(ADVICE)


def content_type(server: Server) -> str:
    """Of a request's body."""
    return "image/jpeg" if server.multipart_field is None else f"multipart/form-data; boundary={BOUNDARY}"


def body(server: Server, jpeg: bytes) -> bytes:
    """The body of a request for one picture."""
    if server.multipart_field is None:
        return jpeg
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{server.multipart_field}"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()


class Generator:
    """One run of wrk."""

    def __init__(self, server: Server, url: str, bodies: Path, clients: int, seconds: float) -> None:
        count = len(list(bodies.iterdir()))
        command = ["wrk", "-t1", f"-c{clients}", f"-d{math.ceil(seconds)}s", f"--timeout={TIMEOUT}s", "-s", str(SCRIPT)]
        self._clients = clients
        self._process = subprocess.Popen(
            [*command, url, "--", str(bodies), str(count), content_type(server)],
            stdout=subprocess.PIPE,
            env=os.environ | {"LC_ALL": "C"},
        )
        self.pid = self._process.pid

    def wait(self, meanwhile: Callable[[], None], at_end: Callable[[], None]) -> Load:
        """Call `meanwhile` a few times a second while the load runs, and `at_end` the moment it has ended."""
        output = self._process.stdout
        assert output is not None
        try:
            while not select.select([output], [], [], 0.2)[0]:
                meanwhile()
            at_end()
            text = output.read().decode()
        finally:
            self._process.kill()
            self._process.wait()
        return read_report(text, self._clients)


def read_report(text: str, clients: int) -> Load:
    """What `rotate.lua` printed at the end."""
    lines = [line.split() for line in text.splitlines()]
    ended = next((line[1:] for line in lines if line[:1] == ["ended"]), None)
    if ended is None:
        raise RuntimeError(f"wrk gave no report: {text[-500:]}")
    answers, duration, (refused, late, broken) = int(ended[0]), int(ended[1]), map(int, ended[3:])
    recorded = {int(line[1]): int(line[2]) for line in lines if line[:1] == ["latency"]}
    histogram = uncorrected(recorded, duration // max(1, answers // clients))
    if sum(histogram.values()) != answers - late:
        raise RuntimeError(f"wrk's histogram has {sum(histogram.values())} answers of {answers - late}")
    return Load(
        requests=answers - refused,
        errors=refused + late + broken,
        seconds=duration / 1e6,
        p50_ms=percentile(histogram, 0.50),
        p95_ms=percentile(histogram, 0.95),
        p99_ms=percentile(histogram, 0.99),
        load_cpu_seconds=float(ended[2]),
    )


def uncorrected(recorded: Histogram, interval: int) -> Histogram:
    """The latencies that were measured, out of wrk's.

    wrk 4 "corrects for coordinated omission": for each latency x of at least two mean intervals it adds x - interval,
    x - 2 interval and so on, as if the client should have sent meanwhile. In a closed loop nothing was omitted. It
    goes from small to large (stats_correct in its stats.c), so taking away from large to small undoes it exactly.
    """
    counts = dict(recorded)
    for value in sorted(recorded, reverse=True):
        if value < 2 * interval or not counts[value]:
            continue
        for added in range(value - interval, interval, -interval):
            counts[added] -= counts[value]
    return {value: count for value, count in counts.items() if count}


def percentile(histogram: Histogram, share: float) -> float | None:
    """By nearest rank, in milliseconds; nothing of nothing."""
    rank, seen = math.ceil(share * sum(histogram.values())), 0
    for value in sorted(histogram):
        seen += histogram[value]
        if seen >= rank:
            return value / 1000
    return None
