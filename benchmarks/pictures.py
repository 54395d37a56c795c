"""The JPEGs that are sent: of photos that somebody names, else drawn, with about as many bytes as photos have."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from service.decoding import START_OF_SCAN

SEED = 20231003

QUALITY = 90

SQUARE_UP_TO = 224
"""Pictures up to this size are square, larger ones 4:3, as those of data sets and of cameras are."""

FEW_FROM = 2000
"""From this size on there are `FEW` pictures instead of `MANY`: their bytes are held in memory by the load."""

FEW, MANY = 6, 24

GRAIN = 3.5
"""Standard deviation of the noise of single pixels, in levels."""

FINEST = 1000
"""The long side in pixels at which clouds are drawn; larger pictures are enlarged, their finest scale is the grain."""


def shape_of(size: int) -> tuple[int, int]:
    """Width and height of the pictures of one size, which is the long side."""
    return (size, size) if size <= SQUARE_UP_TO else (size, size * 3 // 4)


def write_pictures(folder: Path, size: int, photos: Path | None) -> None:
    """Fill `folder` with the JPEGs of one size.

    Args:
        folder: made here.
        size: the long side in pixels.
        photos: a folder of pictures that are resized and cut to the size; without it, pictures are drawn.
    """
    folder.mkdir(parents=True)
    count = FEW if size >= FEW_FROM else MANY
    if photos is None:
        made = (_draw(size, number) for number in range(count))
    else:
        files = sorted(file for file in photos.iterdir() if file.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
        if not files:
            raise SystemExit(f"--photos {photos} has no JPEG, PNG or WEBP files")
        made = (_fit(file, size) for file in files[:count])
    for number, picture in enumerate(made):
        picture.save(folder / f"{number:02}.jpg", quality=QUALITY)


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """A small JPEG in that many scans, each a pass over the whole picture."""
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "JPEG", progressive=True)
    flat = file.getvalue()
    last = flat.rindex(START_OF_SCAN)
    return flat[:-2] + flat[last:-2] * (scans - flat.count(START_OF_SCAN)) + flat[-2:]


def _fit(file: Path, size: int) -> Image.Image:
    with Image.open(file) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    return ImageOps.fit(upright, shape_of(size), Image.Resampling.BICUBIC)


def _draw(size: int, number: int) -> Image.Image:
    """Smooth noise at every scale under shapes with sharp and soft edges, and grain over all of it."""
    generator = np.random.default_rng((SEED, size, number))
    width, height = shape_of(size)
    ground, shapes = (_clouds(generator, width, height) for _ in range(2))
    ground.paste(shapes, mask=_mask(generator, width, height))
    pixels = np.asarray(ground).astype(np.float32)
    pixels += GRAIN * generator.standard_normal((height, width, 1), np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _clouds(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise whose amplitude falls with its frequency, which is how photos' spectra fall."""
    reduced = max(1.0, max(width, height) / FINEST)
    drawn = round(width / reduced), round(height / reduced)
    levels = np.full((drawn[1], drawn[0], 3), generator.uniform(60, 190, 3), np.float32)
    cells, amplitude = 2, 70.0
    while cells <= max(drawn) // 2:
        rows = max(2, cells * height // width)
        noise = generator.normal(0, amplitude, (rows, cells, 1)) + generator.normal(0, amplitude / 3, (rows, cells, 3))
        for channel in range(3):
            plane = Image.fromarray(noise[..., channel].astype(np.float32))
            levels[..., channel] += np.asarray(plane.resize(drawn, Image.Resampling.BICUBIC))
        cells, amplitude = cells * 2, amplitude * 0.55
    clouds = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return clouds.resize((width, height), Image.Resampling.BICUBIC)


def _mask(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    for _ in range(int(generator.integers(4, 10))):
        corners = generator.normal(generator.uniform(0, 1, 2), 0.15, (int(generator.integers(3, 7)), 2))
        pen.polygon([(float(x) * width, float(y) * height) for x, y in corners], fill=int(generator.integers(120, 256)))
    return mask.filter(ImageFilter.GaussianBlur(float(generator.uniform(0, max(width, height) / 500))))
