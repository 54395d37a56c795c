"""What the worst file of each format costs its decoder: `python -m benchmarks.hostile`, or `make hostile`.

The files are of as many pixels as are allowed by default, in what each format's decoder is slow at, or small pictures
with as many bytes of headers as are allowed. Each is decoded in a process of its own, whose peak memory is the kernel's
figure.
"""

import asyncio
import io
import struct
import zlib
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
from benchmarks.processes import cpu_seconds
from service.artifact import Preprocessing
from service.decoders import Decoders
from service.decoding import MOST_SCANS
from service.errors import BadPicture, PictureTooSlow
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
    table = Table("file", "MiB", "CPU seconds", "peak MiB", "result", title=f"{WIDTH}x{HEIGHT} pixels")
    for name, make in FILES.items():
        data = make()
        assert len(data) <= settings.decode_limits.max_bytes, f"{name} would be refused unread"
        table.add_row(name, f"{len(data) / 2**20:.2f}", *asyncio.run(_cost(data, settings)))
    Console(width=100).print(table)


async def _cost(data: bytes, settings: Settings) -> tuple[str, str, str]:
    """CPU seconds, which other processes of the machine do not change, peak MiB, and what came of it."""
    decoders = Decoders(settings.decode_limits, Metrics())
    await decoders.start(1)
    (decoder,) = [each for child in psutil.Process().children() for each in child.children()]
    begin = cpu_seconds([decoder])
    try:
        await decoders.read_pixels(data, PREPROCESSING)
        result = "decoded"
    except BadPicture as error:
        result = error.code
    if result == PictureTooSlow.code:  # so the process is gone
        return "-", "-", result
    taken, peak = cpu_seconds([decoder]) - begin, _peak(decoder.pid)
    await decoders.close()
    return f"{taken:.2f}", f"{peak:.0f}", result


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


def bmp_of_short_rows(width: int, height: int) -> bytes:
    """Run lengths of one pixel and the end of the line: Pillow fills up the rest of each row in a loop of Python's."""
    rows = b"\x01\x00\x00\x00" * height + b"\x00\x01"
    begin = 14 + 40 + 4 * 256
    header = struct.pack("<2sIHHI", b"BM", begin + len(rows), 0, 0, begin)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 256)
    return header + info + bytes(4 * 256) + rows


def jpeg_of_segments(segment: bytes, size: int) -> bytes:
    """A small picture behind as many of these as the size in bytes allows."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    start, rest = file.getvalue()[:2], file.getvalue()[2:]
    return start + segment * ((size - len(file.getvalue())) // len(segment)) + rest


def png_of_chunks(size: int) -> bytes:
    """A small picture with as many private chunks without content as the size in bytes allows."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    header = 8 + 25  # the signature and IHDR
    start, rest = file.getvalue()[:header], file.getvalue()[header:]
    chunk = struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt"))
    return start + chunk * ((size - len(file.getvalue())) // len(chunk)) + rest


MOST_BYTES = Settings.model_fields["max_image_mb"].default << 20

EMPTY_SEGMENT = b"\xff\xe5\x00\x02"

EXIF_SEGMENT = b"\xff\xe1\x00\x12Exif\x00\x00" + bytes(10)
"""Pillow puts such parts together one by one, each time copying what it has. Ten bytes are what costs most."""

FILES: Mapping[str, Callable[[], bytes]] = {
    "JPEG, progressive": _encoded(3, "JPEG", quality=20, progressive=True),
    f"JPEG, {MOST_SCANS} scans": partial(scan_bomb, WIDTH, HEIGHT, MOST_SCANS),
    f"JPEG, {MOST_SCANS + 1} scans": partial(scan_bomb, WIDTH, HEIGHT, MOST_SCANS + 1),
    "JPEG, segments without content": partial(jpeg_of_segments, EMPTY_SEGMENT, MOST_BYTES),
    "JPEG, EXIF in parts": partial(jpeg_of_segments, EXIF_SEGMENT, MOST_BYTES),
    "PNG, chunks without content": partial(png_of_chunks, MOST_BYTES),
    "PNG with alpha": _encoded(4, "PNG", compress_level=1),
    "GIF": _encoded(3, "GIF"),
    "BMP, run lengths of short rows": partial(bmp_of_short_rows, WIDTH, HEIGHT),
    "TIFF, LZMA": _encoded(3, "TIFF", compression="lzma"),
    "TIFF, deflate": _encoded(3, "TIFF", compression="tiff_adobe_deflate"),
    "WEBP, lossless with alpha, to be turned": _encoded(4, "WEBP", lossless=True, quality=0, method=1, exif=TURNED),
    "WEBP": _encoded(3, "WEBP", quality=20, method=0),
    "AVIF": _encoded(3, "AVIF", quality=30, speed=10),
}

if __name__ == "__main__":
    typer.run(main)
