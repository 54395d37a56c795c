"""`strip-mlp-classify` against decoding and the bare session alone: `python -m benchmarks.offline_speed`."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.bare import service_decode
from benchmarks.pictures import write_pictures
from offline.model import Model, open_model
from service.settings import Settings

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class OfflineRow(BaseModel):
    """Medians over the rounds, for pictures of one size; pictures a second."""

    size: int
    decode_and_session: float
    """Of a loop in each core's thread: read a batch's files, decode them, run the bare session."""
    command: float
    """Of the command, without its start."""
    ratio: float
    """Median of the rounds' own ratios."""


def measure(size: int, pictures: int, rounds: int, folder: Path) -> OfflineRow:
    """One size: in every round the loop, and the command with few and with many pictures, in turns."""
    settings = Settings(device="cpu")
    model = open_model(None, settings)
    write_pictures(folder / "drawn", size, None)
    drawn = sorted((folder / "drawn").iterdir())
    paths = [drawn[number % len(drawn)] for number in range(pictures)]
    loops, commands = [], []
    for number in range(rounds):
        # Every second round is the other way round, as machines drift.
        for turn in (0, 1) if number % 2 else (1, 0):
            if turn:
                loops.append(_loop(model, paths, settings.cores))
            else:
                few, many = (_seconds(paths[:count], folder, model.batch_limit) for count in (pictures // 5, pictures))
                commands.append((pictures - pictures // 5) / (many - few))
    return OfflineRow(
        size=size,
        decode_and_session=median(loops),
        command=median(commands),
        ratio=median(command / loop for command, loop in zip(commands, loops, strict=True)),
    )


def _loop(model: Model, paths: list[Path], threads: int) -> float:
    """Pictures a second."""
    preprocessing, batch = model.artifact.preprocessing, model.batch_limit

    def work(start: int) -> None:
        for first in range(start, len(paths), threads * batch):
            part = paths[first : first + batch]
            model.opened.session.run(np.stack([service_decode(path.read_bytes(), preprocessing) for path in part]))

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, threads * batch, batch)))
    return len(paths) / (time.perf_counter() - begin)


def _seconds(paths: list[Path], folder: Path, batch: int) -> float:
    command = [sys.executable, "-c", "from offline.classify import main; main()", "-", "--device", "cpu"]
    given = "\n".join(map(str, paths)).encode()
    begin = time.perf_counter()
    output = ["--output", str(folder / "rows.jsonl"), "--overwrite"]
    environment = os.environ | {"STRIPMLP_BATCH_LIMIT": str(batch)}
    subprocess.run([*command, *output], input=given, check=True, env=environment, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


@main.command()
def command(
    sizes: Annotated[str, typer.Option(help="long sides of the JPEGs, pixels")] = "32,500",
    pictures: Annotated[int, typer.Option(help="how many the command classifies")] = 5000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path, typer.Option(help="where the JSON goes")] = Path(".bench/offline.json"),
) -> None:
    """Measure the command against decoding and the session alone, and print a table."""
    rows = []
    for size in sizes.split(","):
        with TemporaryDirectory() as folder:
            rows.append(measure(int(size), pictures, rounds, Path(folder)))
    table = Table(title="strip-mlp-classify on the CPU", box=SIMPLE_HEAD)
    for name in OfflineRow.model_fields:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in row.model_dump().values()))
    Console(width=120).print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps([row.model_dump() for row in rows], indent=2))


if __name__ == "__main__":
    main()
