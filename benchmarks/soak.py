"""Hours of ordinary trouble: `python -m benchmarks.soak`, or `make soak`.

Four fifths of the load that the service can answer, a tenth of it odd files and a fifth of it from clients that hang
up; beside it models are replaced, decoders killed, bombs and slow senders sent. Ends with status 1 if something grew,
was lost, or slowed down.
"""

import asyncio
import io
import os
import re
import secrets
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import verdicts
from benchmarks.__main__ import BUNDLED
from benchmarks.growth import Look, Watch, look, service_process
from benchmarks.mischief import Mischief
from benchmarks.model import ModelFile
from benchmarks.pictures import write_pictures
from benchmarks.processes import adopt_orphans, wait_idle
from benchmarks.servers import OURS, SERVERS
from benchmarks.serving import Running, running
from benchmarks.storm import counts_of, run_load
from benchmarks.storm_load import Sent, StormJob
from benchmarks.verdicts import Verdict
from service.cpus import usable_cpus

TOKEN = secrets.token_hex()

LOAD = 0.8

POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads that the event loop's pool may have, which come when they are needed and stay (ThreadPoolExecutor). One lost
with each new version would be more."""

USUAL = 9
"""Pictures for each odd one."""


def main(
    minutes: Annotated[float, typer.Option(help="of the load")] = 30,
    size: Annotated[int, typer.Option(help="long side of the JPEGs, pixels")] = 500,
    odd: Annotated[Path | None, typer.Option(exists=True, help="ZIP of odd files, in place of our own")] = None,
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="ONNX file of the exporter")] = BUNDLED,
) -> None:
    """Have the service under load for long, with trouble, and judge what became of it."""
    adopt_orphans()
    options = ("--decode-seconds", "1", "--max-body-seconds", "2", "--header-seconds", "2", "--poll-seconds", "0")
    ours = SERVERS[OURS]
    server = replace(ours, command=(*ours.command, *options, "--admin-token", TOKEN))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        pictures = Path(folder) / "pictures"
        write_pictures(pictures, size, None)
        sample = next(pictures.iterdir()).read_bytes()
        _add_odd(pictures, _from_zip(odd) if odd else _own())
        with running(server, Path(sys.prefix), ModelFile.read(model), usable_cpus(), sample) as service:
            judged = _soak(service, Path(folder), pictures, 60 * minutes)
    table = Table("asked", "seen", "", title=f"{minutes:g} minutes at {LOAD:.0%} of capacity, {size} px")
    for each in judged:
        table.add_row(each.asked, each.seen, "kept" if each.kept else "NOT KEPT")
    Console(width=120).print(table)
    if not all(each.kept for each in judged):
        raise typer.Exit(1)


def _soak(service: Running, folder: Path, pictures: Path, seconds: float) -> list[Verdict]:
    root = service_process()

    def load(seconds: float, clients: int | None = None, rate: float | None = None) -> list[Sent]:
        return run_load(
            StormJob(url=service.url, pictures=pictures, seconds=seconds, clients=clients, rate=rate), folder
        )

    load(5, 64)
    capacity = len(load(10, 64)) / 10
    rate = LOAD * capacity
    at_rest = _at_rest(root, service)
    counted = counts_of(service)
    versions = next((service.scratch / "models").glob("*/1"))
    mischief = Mischief(service.url, TOKEN, versions, root)
    with Watch(root, every=max(1, seconds / 600)) as watch, _Beside(mischief, pause=max(1, seconds / 180)):
        sent = load(seconds, rate=rate)
    after = _at_rest(root, service, at_rest.files)
    counts = counts_of(service) - counted
    capacity_after = len(load(10, 64)) / 10
    times = [each.seconds for each in watch.looks]
    return [
        verdicts.load_sent(sent, rate, seconds),
        verdicts.good_answered(sent, USUAL / (USUAL + 1), seconds),
        verdicts.few_turned_away(sent, seconds),
        verdicts.no_failure(sent),
        verdicts.all_trouble(mischief.done),
        verdicts.counts_add_up(counts, len(sent) + mischief.pictures),
        verdicts.no_more("open files at rest", at_rest.files, after.files),
        verdicts.no_more("threads", at_rest.threads, after.threads, POOL),
        verdicts.memory("all processes", times, [each.mib for each in watch.looks], seconds),
        verdicts.memory("the service without its decoders", times, [each.service_mib for each in watch.looks], seconds),
        verdicts.latency(sent, seconds, capacity, capacity_after),
    ]


def _at_rest(root: psutil.Process, service: Running, files: int | None = None) -> Look:
    """Once nobody is connected but who asks, and so many files are open; or after a while, if that does not come."""
    wait_idle(30)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        text = httpx.get(f"http://127.0.0.1:{service.port}/metrics", trust_env=False).text
        found = re.search(r"^stripmlp_connections (\S+)$", text, re.MULTILINE)
        if found and float(found[1]) <= 1 and (files is None or look(root, 0).files <= files):
            break
        time.sleep(0.2)
    return look(root, time.monotonic())


class _Beside:
    """Mischief in a thread of its own, from entering to leaving the context. Leaving raises what went wrong in it."""

    def __init__(self, mischief: Mischief, pause: float) -> None:
        self._mischief = mischief
        self._pause = pause
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._task = self._loop.create_task(self._mischief.go_on(self._pause))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        assert self._task is not None  # entered
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        with suppress(asyncio.CancelledError):
            self._task.result()

    def _run(self) -> None:
        assert self._task is not None  # entered
        self._loop.run_until_complete(asyncio.wait([self._task]))


def _add_odd(pictures: Path, odd: Sequence[bytes]) -> None:
    """Put odd files among the pictures, which are repeated until there are `USUAL` for each, in an even mixture."""
    usual = sorted(pictures.iterdir())
    for number, data in enumerate(odd):
        place = usual[number * len(usual) // len(odd)]
        place.with_name(f"{place.stem}-odd-{number}").write_bytes(data)
    for number in range(USUAL * len(odd) - len(usual)):
        place = usual[number % len(usual)]
        place.with_name(f"{place.stem}-{number}.jpg").write_bytes(place.read_bytes())


def _own() -> list[bytes]:
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(file, "JPEG")
    return [file.getvalue()[:-1000], b"no picture at all", file.getvalue().replace(b"\x07\xd0", b"\xff\xff", 2)]


def _from_zip(archive: Path) -> list[bytes]:
    with zipfile.ZipFile(archive) as files:
        names = [name for name in files.namelist() if not name.endswith((".jsonl", "/"))]
        return [data for data in map(files.read, names) if data]


if __name__ == "__main__":
    typer.run(main)
