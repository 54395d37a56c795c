"""From an upright RGB picture to the network's pixels: the authors' evaluation transform, by the same library.

Pillow's resize along both axes and then a crop, as torchvision does it to a PIL picture, so the pixels are the very
same. Only pictures so elongated that the resized one would be huge are cut before they are resized.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.artifact import Preprocessing

Pixels = NDArray[np.uint8]
"""One picture (size, size, 3) or a batch of them (batch, size, size, 3), RGB."""

MOST_RESIZED_PIXELS = 1 << 24
"""64 MiB in Pillow; at the usual 256 px short side, pictures over 256 times as long as wide would pass it."""

WIDEST_SUPPORT = 3
"""Source pixels to each side that Pillow's widest filter, Lanczos, looks at, times the scale when it reduces."""


def to_pixels(picture: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize and crop one RGB picture to uint8 (size, size, 3)."""
    size = preprocessing.image_size
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    if not preprocessing.crop:
        return np.asarray(picture.resize((size, size), resampling))
    width, height = resized_size(picture.size, preprocessing.resize_side)
    # torchvision's CenterCrop rounds the offset half to even.
    left, top = round((width - size) / 2), round((height - size) / 2)
    if width * height > MOST_RESIZED_PIXELS:
        scale_x, scale_y = picture.width / width, picture.height / height
        columns, rows = (left * scale_x, (left + size) * scale_x), (top * scale_y, (top + size) * scale_y)
        vertical_first = _vertical_first(picture.size, (width, height))
        return np.asarray(_resize_cut(picture, columns, rows, size, resampling, vertical_first=vertical_first))
    return np.asarray(picture.resize((width, height), resampling).crop((left, top, left + size, top + size)))


def resized_size(picture_size: tuple[int, int], side: int) -> tuple[int, int]:
    """torchvision's `Resize(side)`: the short side becomes `side`, the long one is truncated."""
    width, height = picture_size
    return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)


def _vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Which axis Pillow resizes first, which shows in the rounding (13.0, pull request 9549)."""
    lost_columns, lost_rows = before[0] - after[0], before[1] - after[1]
    return lost_rows > 0 and lost_rows > 2 * lost_columns


def _resize_cut(
    picture: Image.Image,
    columns: tuple[float, float],
    rows: tuple[float, float],
    size: int,
    resampling: Image.Resampling,
    *,
    vertical_first: bool,
) -> Image.Image:
    """Resize a part of the picture alone, on the grid of the whole; a level or two may differ, through rounding."""
    margin = math.ceil(WIDEST_SUPPORT * max((columns[1] - columns[0]) / size, (rows[1] - rows[0]) / size, 1)) + 1
    # Pillow keeps a box in single precision, which cannot hold a fraction far from the origin: cut first.
    x, y = max(math.floor(columns[0]) - margin, 0), max(math.floor(rows[0]) - margin, 0)
    end_x, end_y = min(math.ceil(columns[1]) + margin, picture.width), min(math.ceil(rows[1]) + margin, picture.height)
    left, right = columns[0] - x, min(columns[1], end_x) - x
    top, bottom = rows[0] - y, min(rows[1], end_y) - y
    region = picture.crop((x, y, end_x, end_y))
    if vertical_first:
        strip = region.resize((region.width, size), resampling, box=(0, top, region.width, bottom))
        return strip.resize((size, size), resampling, box=(left, 0, right, size))
    strip = region.resize((size, region.height), resampling, box=(left, 0, right, region.height))
    return strip.resize((size, size), resampling, box=(0, top, size, bottom))
