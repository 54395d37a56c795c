"""What decoding costs: as in training, as the service does it exactly, and as it does it by default."""

import io
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from PIL import Image
from pydantic import BaseModel
from rich.table import Table

from benchmarks.graphs import PREPROCESSING
from benchmarks.peers.common import Contract
from benchmarks.pictures import shape_of, write_pictures
from benchmarks.rounds import median_ratio, milliseconds
from benchmarks.tables import new_table, show
from service.decoding import PILLOWS_MOST_PIXELS
from service.pixels import read_pixels

KINDS = [("JPEG", 32), ("JPEG", 224), ("JPEG", 500), ("JPEG", 1000), ("JPEG", 2000), ("JPEG", 4000)] + [
    (kind, size) for kind in ("PNG", "WEBP") for size in (500, 2000, 4000)
]

PICTURES = 4
"""Of each kind."""

PLAIN, EXACT, DEFAULT = "as in training", "exact", "default"


class DecodeRow(BaseModel):
    """Milliseconds for one picture, from its bytes to pixels for a 224 px model."""

    kind: str
    long_side: int
    megapixels: float
    plain_ms: float
    exact_ms: float
    default_ms: float
    exact_of_plain: float
    default_of_plain: float


def measure_decoding(rounds: int) -> list[DecodeRow]:
    """Every kind and size of picture, with one thread."""
    with tempfile.TemporaryDirectory(prefix="bench-decoding-") as folder:
        return [_measure(kind, size, rounds, Path(folder)) for kind, size in KINDS]


def decode_table(rows: Sequence[DecodeRow]) -> Table:
    """A line for each kind and size."""
    table = new_table(
        "Decode and resize for a 224 px model, one thread",
        *("format", "long side", "megapixels", "ms/img: as in training", "exact", "default"),
        *("default, ms/megapixel", "exact of training's", "default of training's"),
    )
    for row in rows:
        figures = (row.plain_ms, row.exact_ms, row.default_ms, row.default_ms / row.megapixels)
        ratios = (row.exact_of_plain, row.default_of_plain)
        table.add_row(row.kind, str(row.long_side), *map(show, (row.megapixels, *figures, *ratios)))
    return table


def _measure(kind: str, size: int, rounds: int, folder: Path) -> DecodeRow:
    files = _files(kind, size, folder / f"{kind}-{size}")
    contract = Contract(
        image_size=PREPROCESSING.image_size,
        resize_side=PREPROCESSING.resize_side,
        crop=PREPROCESSING.crop,
        interpolation=PREPROCESSING.interpolation,
        labels=[],
    )
    own = partial(read_pixels, preprocessing=PREPROCESSING, max_pixels=PILLOWS_MOST_PIXELS)
    ways: dict[str, Callable[[bytes], object]] = {
        PLAIN: contract.decode,
        EXACT: partial(own, exact=True),
        DEFAULT: partial(own, exact=False),
    }
    works = {name: partial(_all, way, files) for name, way in ways.items()}
    times = milliseconds(works, rounds, f"{kind} of {size} px")
    width, height = shape_of(size)
    return DecodeRow(
        kind=kind,
        long_side=size,
        megapixels=width * height / 1e6,
        plain_ms=median(times[PLAIN]) / PICTURES,
        exact_ms=median(times[EXACT]) / PICTURES,
        default_ms=median(times[DEFAULT]) / PICTURES,
        exact_of_plain=median_ratio(times[EXACT], times[PLAIN]),
        default_of_plain=median_ratio(times[DEFAULT], times[PLAIN]),
    )


def _files(kind: str, size: int, folder: Path) -> list[bytes]:
    write_pictures(folder, size, None)
    jpegs = [path.read_bytes() for path in sorted(folder.iterdir())[:PICTURES]]
    return jpegs if kind == "JPEG" else [_encoded_as(kind, jpeg) for jpeg in jpegs]


def _encoded_as(kind: str, jpeg: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(file, kind)
    return file.getvalue()


def _all(way: Callable[[bytes], object], files: Sequence[bytes]) -> None:
    for file in files:
        way(file)
