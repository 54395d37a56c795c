"""Hours of ordinary trouble: `python -m benchmarks.soak`, or `make soak`.

Four fifths of the load that the service can answer, a tenth of it odd files and a fifth of it from clients that hang
up; beside it models are replaced, decoders killed, bombs and slow senders sent. Ends with status 1 if something grew,
was lost, or slowed down.
"""

import asyncio
import io
import re
import secrets
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles
from typing import Annotated

import httpx
import psutil
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import BUNDLED
from benchmarks.growth import Look, Watch, look, service_process, slope
from benchmarks.mischief import Mischief
from benchmarks.model import ModelFile
from benchmarks.pictures import MANY, write_pictures
from benchmarks.processes import adopt_orphans, wait_idle
from benchmarks.servers import OURS, SERVERS
from benchmarks.serving import Running, running
from benchmarks.storm import counts_of, run_load
from benchmarks.storm_load import HUNG_UP, Sent, StormJob
from service.cpus import usable_cpus

TOKEN = secrets.token_hex()

LOAD = 0.8

WARM_SHARE, WARM_LEAST = 0.2, 30
"""Of the time, and seconds, in which memory may grow: every decoder has to have seen a bomb."""

ALLOWED = {200, 413, 415, 422, 429, 504, HUNG_UP}
"""504 is what clients with short deadlines ask for."""

COMPARED_SECONDS = 300
"""Of the first and the last answers."""

SLOWER = 1.2

JUDGED_SECONDS = 900
"""Shorter runs cannot tell growth, or slowing down, from the ups and downs of a load."""

TOO_SHORT = " (too short to judge)"


@dataclass(frozen=True)
class Verdict:
    """One thing that was asked of the service, and whether it kept to it."""

    asked: str
    seen: str
    kept: bool


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
        _add_odd(pictures, odd)
        with running(server, Path(sys.prefix), ModelFile.read(model), usable_cpus(), sample) as service:
            verdicts = _soak(service, Path(folder), pictures, 60 * minutes)
    table = Table("asked", "seen", "", title=f"{minutes:g} minutes at {LOAD:.0%} of capacity, {size} px")
    for each in verdicts:
        table.add_row(each.asked, each.seen, "kept" if each.kept else "NOT KEPT")
    Console(width=120).print(table)
    if not all(each.kept for each in verdicts):
        raise typer.Exit(1)


def _soak(service: Running, folder: Path, pictures: Path, seconds: float) -> list[Verdict]:
    root = service_process()

    def load(seconds: float, clients: int | None = None, rate: float | None = None) -> list[Sent]:
        return run_load(
            StormJob(url=service.url, pictures=pictures, seconds=seconds, clients=clients, rate=rate), folder
        )

    load(5, 64)
    capacity = len(load(10, 64)) / 10
    at_rest = _at_rest(root, service)
    counted = counts_of(service)
    versions = next((service.scratch / "models").glob("*/1"))
    mischief = Mischief(service.url, TOKEN, versions, root)
    with Watch(root, every=max(1, seconds / 600)) as watch, _Beside(mischief, pause=max(1, seconds / 180)):
        sent = load(seconds, rate=LOAD * capacity)
    after = _at_rest(root, service, at_rest.files)
    counts = counts_of(service) - counted
    return [
        Verdict("load held", f"{len(sent) / seconds:.0f}/s of {capacity:.0f}/s: {_statuses(sent)}", kept=True),
        Verdict("trouble", ", ".join(f"{done} {deed}" for deed, done in mischief.done.items()), bool(mischief.done)),
        Verdict(
            "no answer that accuses the service",
            f"{sum(each.status not in ALLOWED for each in sent)} of {len(sent)}",
            all(each.status in ALLOWED for each in sent),
        ),
        Verdict(
            "counts add up",
            f"{counts.total()} counted of {len(sent) + mischief.pictures} sent: "
            + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())),
            counts.total() == len(sent) + mischief.pictures,
        ),
        _memory(watch.looks, seconds),
        _not_more("open files at rest", at_rest.files, after.files),
        _not_more("threads", at_rest.threads, after.threads),
        _latency(sent, seconds),
    ]


def _memory(looks: Sequence[Look], seconds: float) -> Verdict:
    warm = max(WARM_SHARE * seconds, WARM_LEAST)
    later = [each for each in looks if each.seconds > warm]
    line = slope([each.seconds for each in later], [each.mib for each in later])
    service = slope([each.seconds for each in later], [each.service_mib for each in later])
    seen = (
        f"{looks[0].mib:.0f} MiB at first, {max(each.mib for each in looks):.0f} at most, {looks[-1].mib:.0f} at last; "
        f"{line.per_hour:+.1f} MiB an hour after warm-up, 95 % within {line.low:+.1f} and {line.high:+.1f}; "
        f"the service without its decoders {service.per_hour:+.1f}, {service.low:+.1f} and {service.high:+.1f}"
    )
    judged = seconds >= JUDGED_SECONDS
    return Verdict("memory does not grow", seen if judged else seen + TOO_SHORT, not judged or line.is_zero)


def _not_more(what: str, before: int, after: int) -> Verdict:
    return Verdict(f"no more {what}", f"{before} before, {after} after", after <= before)


def _latency(sent: Sequence[Sent], seconds: float) -> Verdict:
    """Of answers; runs that are too short to compare five minutes are shown, not judged."""
    part = min(COMPARED_SECONDS, seconds / 3)
    first = _p99([each.seconds for each in sent if each.status == 200 and each.ended < part])
    last = _p99([each.seconds for each in sent if each.status == 200 and each.ended > seconds - part])
    judged = seconds >= JUDGED_SECONDS
    seen = f"p99 {1000 * first:.0f} ms in the first {part:.0f} s, {1000 * last:.0f} ms in the last"
    return Verdict("as fast at the end", seen if judged else seen + TOO_SHORT, not judged or last <= SLOWER * first)


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98]


def _statuses(sent: Sequence[Sent]) -> str:
    counts = Counter("hung up" if each.status == HUNG_UP else str(each.status) for each in sent)
    return ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))


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


def _add_odd(pictures: Path, archive: Path | None) -> None:
    """Put odd files among the pictures, one for every nine of them, without changing their order."""
    odd = _from_zip(archive) if archive else _own()
    for number, data in enumerate(odd[: max(1, MANY // 9)] if archive is None else odd):
        (pictures / f"{number % MANY:02}-odd-{number}").write_bytes(data)
    if archive:  # as many usual ones to each as there are without an archive
        usual = sorted(pictures.glob("*.jpg"))
        for number in range(9 * len(odd) - len(usual)):
            source = usual[number % len(usual)]
            (pictures / f"{source.stem}-{number}.jpg").write_bytes(source.read_bytes())


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
