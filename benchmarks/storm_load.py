"""The load of a storm, run as a process of its own: a closed loop, or an open one with impatient clients.

No load generator that is to be had sends requests at a fixed rate, with deadlines, from clients that hang up; so this
is asyncio's streams and the bytes of HTTP/1.1.
"""

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import uvloop
from pydantic import BaseModel

HANG_UP = 0.2
"""Share of the clients that leave before their answer."""

PATIENCE_SECONDS = 0.3
"""They leave after up to this time."""

DEADLINES_MS = (None, 250, 1000, 4000)
"""Every request has one of these."""

HUNG_UP = 0
"""In place of a status."""


class StormJob(BaseModel):
    """What to send."""

    url: str
    pictures: Path
    seconds: float
    clients: int | None = None
    """Of a closed loop."""
    rate: float | None = None
    """Requests a second of an open loop."""
    at_random: bool = False
    """Whether they come as a Poisson process has it, not evenly."""
    deadlines_ms: tuple[int | None, ...] = DEADLINES_MS
    """Each of them has one of these."""
    hang_up: float = HANG_UP
    """Share of the clients that leave before their answer."""
    seed: int = 1
    """Of all that is left to chance."""


class Sent(BaseModel):
    """What became of one request."""

    status: int
    seconds: float
    """From its first byte to its answer's last."""
    ended: float
    """Seconds after the start of the load."""


class Connections:
    """Kept connections; a new one is opened where none is idle."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def ask(self, request: bytes, patience: float | None) -> int:
        """Send a request and read its answer, or hang up after `patience` seconds. Returns the status."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        try:
            async with asyncio.timeout(patience):
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
        except TimeoutError:
            writer.close()
            return HUNG_UP
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split()[1])


async def _load(job: StormJob, results: TextIO) -> None:
    """Send, and write a line of JSON for every request: hundreds of thousands that were kept would have the garbage
    collector stop the load for a tenth of a second and more, which looks like a slow service."""
    parts = urlsplit(job.url)
    assert parts.hostname is not None  # the job's maker gives it
    assert parts.port is not None
    connections = Connections(parts.hostname, parts.port)
    pictures = cycle([file.read_bytes() for file in sorted(job.pictures.iterdir())])
    chance = _chance(f"clients {job.seed}")  # not the times' own, of which theirs would be a function
    begin = time.perf_counter()

    async def ask(deadline: int | None, patience: float | None) -> None:
        started = time.perf_counter()
        status = await connections.ask(_request(parts.netloc, parts.path, next(pictures), deadline), patience)
        ended = time.perf_counter()
        results.write(Sent(status=status, seconds=ended - started, ended=ended - begin).model_dump_json() + "\n")

    async def client() -> None:
        while time.perf_counter() - begin < job.seconds:
            await ask(None, None)

    async with asyncio.TaskGroup() as group:
        for _ in range(job.clients or 0):
            group.create_task(client())
        for due in times(job):
            await asyncio.sleep(begin + due - time.perf_counter())
            patience = chance.uniform(0, PATIENCE_SECONDS) if chance.random() < job.hang_up else None
            group.create_task(ask(chance.choice(job.deadlines_ms), patience))


def times(job: StormJob) -> Iterator[float]:
    """When the requests of the open loop are due, in seconds. The same in every run."""
    chance = _chance(job.seed)
    if job.rate is not None:
        due = 0.0
        while due < job.seconds:
            yield due
            due += chance.expovariate(job.rate) if job.at_random else 1 / job.rate


def _chance(seed: int | str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret, and the same in every run


def _request(host: str, path: str, jpeg: bytes, deadline: int | None) -> bytes:
    asked = f"X-Request-Timeout-Ms: {deadline}\r\n" if deadline else ""
    type_and_length = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{type_and_length}{asked}\r\n".encode() + jpeg


def main(job_file: str, results: str) -> None:
    """Read the job, send its load, say what became of it."""
    job = StormJob.model_validate_json(Path(job_file).read_text("utf-8"))
    with Path(results).open("w", encoding="utf-8") as file:
        uvloop.run(_load(job, file))


if __name__ == "__main__":
    main(*sys.argv[1:])
