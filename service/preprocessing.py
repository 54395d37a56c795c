"""From an upright RGB picture to the network's pixels: the authors' evaluation transform, by the same library.

Pillow's resize along both axes and then a crop, as torchvision does it to a PIL picture, so the pixels are the very
same. Only pictures so elongated that the resized one would be huge are resized in part; theirs are at most one level
off, or two where a side passes 65,000 px and the other is below the short side's size.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.artifact import Preprocessing

Pixels = NDArray[np.uint8]
"""One picture (size, size, 3) or a batch of them (batch, size, size, 3), RGB."""

MOST_RESIZED_PIXELS = 1 << 24
"""64 MiB in Pillow; at the usual 256 px short side, pictures over 256 times as long as wide would pass it."""

MOST_STRIP_PIXELS = 1 << 24
"""The same along one axis alone, where what is no larger than the picture itself is made anyway."""

WIDEST_SUPPORT = 3
"""Source pixels to each side that Pillow's widest filter, Lanczos, looks at, times the scale when it reduces."""


def to_pixels(picture: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize and crop one RGB picture to uint8 (size, size, 3)."""
    size = preprocessing.image_size
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    if not preprocessing.crop:
        return np.asarray(picture.resize((size, size), resampling))
    width, height = resized_size(picture.size, preprocessing.resize_side)
    left, top = centre((width, height), size)
    if width * height <= MOST_RESIZED_PIXELS:
        cut = picture.resize((width, height), resampling).crop((left, top, left + size, top + size))
    elif _vertical_first(picture.size, (width, height)):
        flipped = picture.transpose(Image.Transpose.TRANSPOSE)
        cut = _resize_cut(flipped, (height, width), (top, left), size, resampling)
        cut = cut.transpose(Image.Transpose.TRANSPOSE)
    else:
        cut = _resize_cut(picture, (width, height), (left, top), size, resampling)
    return np.asarray(cut)


def resized_size(picture_size: tuple[int, int], side: int) -> tuple[int, int]:
    """torchvision's `Resize(side)`: the short side becomes `side`, the long one is truncated."""
    width, height = picture_size
    return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)


def centre(resized: tuple[int, int], size: int) -> tuple[int, int]:
    """torchvision's `CenterCrop(size)`: left and top of the square, rounded half to even."""
    return round((resized[0] - size) / 2), round((resized[1] - size) / 2)


def _vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Which axis Pillow resizes first, which shows in the rounding (13.0, pull request 9549)."""
    lost_columns, lost_rows = before[0] - after[0], before[1] - after[1]
    return lost_rows > 0 and lost_rows > 2 * lost_columns


def _resize_cut(
    picture: Image.Image,
    resized: tuple[int, int],
    offset: tuple[int, int],
    size: int,
    resampling: Image.Resampling,
) -> Image.Image:
    """The centre of the resized picture without the rest of it: along rows whole, then along columns in a box.

    Pillow keeps a box in single precision, so its pixels are at most a level off; a box in both directions would
    amplify that, and is left to rows that are too long.
    """
    rows = _Span.of(picture.height, resized[1], offset[1], size)
    strip = picture.crop((0, rows.first, picture.width, rows.last))
    if resized[0] * strip.height <= max(MOST_STRIP_PIXELS, picture.width * picture.height):
        strip = strip.resize((resized[0], strip.height), resampling)
        strip = strip.crop((offset[0], 0, offset[0] + size, strip.height))
    else:
        columns = _Span.of(picture.width, resized[0], offset[0], size)
        strip = strip.crop((columns.first, 0, columns.last, strip.height))
        strip = strip.resize((size, strip.height), resampling, box=(columns.start, 0, columns.end, strip.height))
    return strip.resize((size, size), resampling, box=(0, rows.start, size, rows.end))


@dataclass(frozen=True)
class _Span:
    """The cut along one axis, in pixels of the picture."""

    first: int
    last: int
    """Whole pixels, from `first` to before `last`, that the filter looks at."""
    start: float
    end: float
    """The cut itself, counted from `first`: far from the origin, single precision could not hold the fraction."""

    @classmethod
    def of(cls, length: int, resized: int, offset: int, size: int) -> Self:
        scale = length / resized
        start, end = offset * scale, (offset + size) * scale
        margin = math.ceil(WIDEST_SUPPORT * max(scale, 1)) + 1
        first, last = max(math.floor(start) - margin, 0), min(math.ceil(end) + margin, length)
        return cls(first, last, start - first, min(end, last) - first)
