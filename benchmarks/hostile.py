"""What the worst file of each format costs its decoder: `python -m benchmarks.hostile`, or `make hostile`.

The files are of as many pixels as are allowed by default, in what each format's decoder is slow at. Each is decoded in
a process of its own, whose peak memory is the kernel's figure.
"""

import asyncio
import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import scan_bomb
from service.artifact import Preprocessing
from service.decoders import Decoders
from service.decoding import MOST_SCANS
from service.errors import BadPicture
from service.metrics import Metrics
from service.settings import Settings

WIDTH, HEIGHT = 7000, 7100

GRAIN = 7
"""Side of the patches of one colour, pixels: smaller ones would pass the limit of bytes."""

PREPROCESSING = Preprocessing(
    image_size=224, resize_side=256, crop=True, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)

TURNED = Image.Exif()
TURNED[0x0112] = 6  # lies on its side


def main(seconds: float = typer.Option(60, help="longest decode")) -> None:
    """Measure, with the service's default limits but that of time, and print a table."""
    settings = Settings(decode_seconds=seconds)
    table = Table("file", "MiB", "seconds", "peak MiB", "result", title=f"{WIDTH}x{HEIGHT} pixels")
    for name, make in FILES.items():
        data = make()
        table.add_row(name, f"{len(data) / 2**20:.2f}", *asyncio.run(_cost(data, settings)))
    Console(width=100).print(table)


async def _cost(data: bytes, settings: Settings) -> tuple[str, str, str]:
    """Seconds, peak MiB, and what came of it."""
    decoders = Decoders(settings.decode_limits, Metrics())
    await decoders.start(1)
    (decoder,) = [each for child in psutil.Process().children() for each in child.children()]
    begin = time.perf_counter()
    try:
        await decoders.read_pixels(data, PREPROCESSING)
        result = "decoded"
    except BadPicture as error:
        result = error.code
    taken = time.perf_counter() - begin
    peak = "-" if result == "picture_too_slow" else f"{_peak(decoder.pid):.0f}"
    await decoders.close()
    return f"{taken:.2f}", peak, result


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _patches(channels: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (HEIGHT // GRAIN, WIDTH // GRAIN, channels), dtype=np.uint8)
    large = np.repeat(np.repeat(small, GRAIN, 0), GRAIN, 1)
    return Image.fromarray(large)


def _encoded(channels: int, file_format: str, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        picture = _patches(channels)
        (picture.quantize(64) if file_format == "GIF" else picture).save(file, file_format, **options)
        return file.getvalue()

    return make


FILES: Mapping[str, Callable[[], bytes]] = {
    "JPEG, progressive": _encoded(3, "JPEG", quality=20, progressive=True),
    f"JPEG, {MOST_SCANS} scans": partial(scan_bomb, WIDTH, HEIGHT, MOST_SCANS),
    f"JPEG, {MOST_SCANS + 1} scans": partial(scan_bomb, WIDTH, HEIGHT, MOST_SCANS + 1),
    "PNG with alpha": _encoded(4, "PNG", compress_level=1),
    "GIF": _encoded(3, "GIF"),
    "TIFF, LZMA": _encoded(3, "TIFF", compression="lzma"),
    "TIFF, deflate": _encoded(3, "TIFF", compression="tiff_adobe_deflate"),
    "WEBP, lossless with alpha, to be turned": _encoded(4, "WEBP", lossless=True, quality=0, method=0, exif=TURNED),
    "WEBP": _encoded(3, "WEBP", quality=20, method=0),
    "AVIF": _encoded(3, "AVIF", quality=30, speed=10),
}

if __name__ == "__main__":
    typer.run(main)
