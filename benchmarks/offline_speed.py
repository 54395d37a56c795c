"""`strip-mlp-classify` against decoding and the bare session alone: `python -m benchmarks.offline_speed`."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
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

from benchmarks.bare import rate, service_decode
from benchmarks.pictures import write_pictures
from offline.model import Model, open_model
from service.settings import Settings

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

BATCHES = (8, 16, 32)


class OfflineRow(BaseModel):
    """Medians over the rounds, for pictures of one size."""

    size: int
    decode_ms: float
    """CPU time of a picture, like the next."""
    session_ms: float
    """In the best batch."""
    floor: float
    """Pictures a second, if nothing else took time."""
    command: float
    """Pictures a second of the command, without its start."""
    of_floor: float
    """Median of the rounds' own ratios."""


def measure(size: int, pictures: int, rounds: int, folder: Path) -> OfflineRow:
    """One size: in every round the parts alone, and then the command with few and with many pictures."""
    settings = Settings(device="cpu")
    model = open_model(None, settings)
    write_pictures(folder / "drawn", size, None)
    drawn = sorted((folder / "drawn").iterdir())
    paths = [drawn[number % len(drawn)] for number in range(pictures)]
    decodes, sessions, floors, commands = [], [], [], []
    for _ in range(rounds):
        decode, session = _parts(model, [path.read_bytes() for path in drawn])
        few, many = (_seconds(paths[:number], folder) for number in (pictures // 5, pictures))
        decodes.append(decode)
        sessions.append(session)
        floors.append(1000 * settings.cores / (decode + session))
        commands.append((pictures - pictures // 5) / (many - few))
    return OfflineRow(
        size=size,
        decode_ms=median(decodes),
        session_ms=median(sessions),
        floor=median(floors),
        command=median(commands),
        of_floor=median(command / floor for command, floor in zip(commands, floors, strict=True)),
    )


def _parts(model: Model, jpegs: list[bytes]) -> tuple[float, float]:
    """CPU milliseconds of decoding a picture, and of one in the best batch."""
    preprocessing = model.artifact.preprocessing

    def decode_all() -> None:
        for jpeg in jpegs:
            service_decode(jpeg, preprocessing)

    pixels = np.stack([service_decode(jpeg, preprocessing) for jpeg in jpegs])

    def running(batch: int) -> Callable[[], object]:
        inputs = np.resize(pixels, (batch, *pixels.shape[1:]))
        return lambda: model.opened.session.run(inputs)

    _, decode = rate(decode_all, len(jpegs), 1)
    return decode, min(rate(running(batch), batch, 1)[1] for batch in BATCHES)


def _seconds(paths: list[Path], folder: Path) -> float:
    command = [sys.executable, "-c", "from offline.classify import main; main()", "-", "--device", "cpu"]
    given = "\n".join(map(str, paths)).encode()
    begin = time.perf_counter()
    output = ["--output", str(folder / "rows.jsonl"), "--overwrite"]
    subprocess.run([*command, *output], input=given, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


@main.command()
def command(
    sizes: Annotated[str, typer.Option(help="long sides of the JPEGs, pixels")] = "32,500",
    pictures: Annotated[int, typer.Option(help="how many the command classifies")] = 5000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path, typer.Option(help="where the JSON goes")] = Path(".bench/offline.json"),
) -> None:
    """Measure the command against what no program can beat, and print a table."""
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
