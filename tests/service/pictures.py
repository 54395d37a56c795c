"""Pictures for the tests. Noise, as a wrong place, channel, filter or rounding shows in it."""

import io
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture of one of Pillow's modes with 8 bits a sample."""
    data = np.random.default_rng(seed).bytes(width * height * Image.getmodebands(mode))
    return Image.frombytes(mode, (width, height), data)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A colour picture of slopes, in which a shift by a part of a pixel shows."""
    return noise(6, 6, seed=seed).resize((width, height), Image.Resampling.BICUBIC)


def encode(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The picture as a file of that format."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def png(colour: str) -> bytes:
    """A plain picture, for which the model of `colours` names its strongest channel."""
    return encode(Image.new("RGB", (40, 30), colour))
