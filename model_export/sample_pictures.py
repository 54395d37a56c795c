"""Encoded pictures that every export is checked with: formats, sizes, aspect ratios and modes in a handful.

They are drawn from a fixed seed, so that the same versions of the libraries give the same bytes.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model_export.errors import OptionError
from service.decoding import EXIF_ORIENTATION

SEED = 2307_11458


@dataclass(frozen=True)
class EncodedPicture:
    """A picture's name in messages, and its file's bytes."""

    name: str
    data: bytes


def sample_pictures() -> list[EncodedPicture]:
    """The handful itself."""
    draw = _Painter()
    rotated = Image.Exif()
    rotated[EXIF_ORIENTATION] = 6
    palette = draw.picture(120, 90).quantize(64)
    return [
        _encode("landscape.jpg", draw.picture(500, 375), quality=90),
        _encode("portrait-progressive.jpg", draw.picture(375, 500), quality=75, progressive=True),
        _encode("large-4-4-4.jpg", draw.picture(1024, 768), quality=95, subsampling=0),
        _encode("small.jpg", draw.picture(32, 32), quality=90),
        _encode("panorama.jpg", draw.picture(900, 130), quality=85),
        _encode("rotated-by-exif.jpg", draw.picture(320, 240), quality=90, exif=rotated),
        _encode("grey.jpg", draw.picture(300, 200).convert("L"), quality=90),
        _encode("cmyk.jpg", draw.picture(200, 260).convert("CMYK"), quality=90),
        _encode("square.png", draw.picture(224, 224)),
        _encode("odd-sides.png", draw.picture(333, 257)),
        _encode("alpha.png", draw.with_alpha(240, 320)),
        _encode("grey-alpha.png", draw.with_alpha(160, 150).convert("LA")),
        _encode("palette-transparency.png", palette, transparency=bytes(range(64))),
        _encode("black-and-white.png", draw.picture(97, 203).convert("1")),
        _encode("grey-16-bit.png", draw.grey_16_bit(180, 140)),
        _encode("tall.png", draw.picture(60, 420)),
        _encode("lossy.webp", draw.picture(640, 480), quality=80),
        _encode("lossless.webp", draw.picture(150, 100), lossless=True),
    ]


def read_pictures(directory: Path) -> list[EncodedPicture]:
    """Every file directly in a directory that is not hidden, in sorted order.

    Raises:
        OptionError: there is no such directory, or nothing in it.
    """
    if not directory.is_dir():
        raise OptionError(f"--pictures {directory} is not a directory")
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        raise OptionError(f"--pictures {directory} holds no files")
    return [EncodedPicture(path.name, path.read_bytes()) for path in files]


class _Painter:
    """Draws pictures with smooth areas, edges and texture, none like another."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(SEED)

    def picture(self, width: int, height: int) -> Image.Image:
        y, x = np.mgrid[0:height, 0:width]
        canvas = np.empty((height, width, 3))
        for channel in range(3):
            fx, fy, phase = self.random.uniform(0.5, 6, size=3)
            canvas[..., channel] = 128 + 90 * np.sin(fx * x / width * 6 + phase) * np.cos(fy * y / height * 6)
        for _ in range(6):
            left, top = self.random.integers(width), self.random.integers(height)
            right, bottom = left + self.random.integers(1, width), top + self.random.integers(1, height)
            canvas[top:bottom, left:right] = canvas[top:bottom, left:right] * 0.4 + self.random.uniform(0, 153, size=3)
        canvas += self.random.normal(0, 12, size=canvas.shape)
        return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))

    def with_alpha(self, width: int, height: int) -> Image.Image:
        picture = self.picture(width, height)
        picture.putalpha(self.picture(width, height).convert("L"))
        return picture

    def grey_16_bit(self, width: int, height: int) -> Image.Image:
        return Image.fromarray(self.random.integers(0, 1 << 16, size=(height, width), dtype=np.uint16))


def _encode(name: str, picture: Image.Image, **options: Any) -> EncodedPicture:
    buffer = io.BytesIO()
    picture.save(buffer, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rpartition(".")[2]], **options)
    return EncodedPicture(name, buffer.getvalue())
