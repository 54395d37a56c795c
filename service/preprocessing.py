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
        box = (left * scale_x, top * scale_y, (left + size) * scale_x, (top + size) * scale_y)
        return np.asarray(_resize_box(picture, box, size, resampling))
    return np.asarray(picture.resize((width, height), resampling).crop((left, top, left + size, top + size)))


def resized_size(picture_size: tuple[int, int], side: int) -> tuple[int, int]:
    """torchvision's `Resize(side)`: the short side becomes `side`, the long one is truncated."""
    width, height = picture_size
    return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)


def _resize_box(
    picture: Image.Image, box: tuple[float, float, float, float], size: int, resampling: Image.Resampling
) -> Image.Image:
    """Resize a part of the picture alone, on the grid of the whole; a level or two may differ, through rounding."""
    left, top, right, bottom = box
    margin = math.ceil(WIDEST_SUPPORT * max((right - left) / size, (bottom - top) / size, 1)) + 1
    # Pillow keeps a box in single precision, which cannot hold a fraction far from the origin: cut first.
    x, y = max(math.floor(left) - margin, 0), max(math.floor(top) - margin, 0)
    end_x, end_y = min(math.ceil(right) + margin, picture.width), min(math.ceil(bottom) + margin, picture.height)
    near = (left - x, top - y, min(right, end_x) - x, min(bottom, end_y) - y)
    return picture.crop((x, y, end_x, end_y)).resize((size, size), resampling, box=near)
