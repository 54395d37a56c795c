"""What the authors' code would have answered: their preprocessing and their network, in float64.

Written apart from the service's preprocessing on purpose, as that is what it is compared with. It departs from
the authors' picture loader in two places, both of which the service documents: the EXIF orientation is applied,
and 16-bit grey is scaled to 8 bits, where Pillow's `convert` would clip it.
"""

import io

import torch
from PIL import Image, ImageOps
from torch import Tensor

from model_export.network import StripMLP
from service.artifact import Preprocessing


def load_picture(data: bytes) -> Image.Image:
    """An encoded picture as the authors' loader gives it, upright."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda sample: sample * (1 / 256)).convert("L")
    if picture.mode == "P":
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def resize_and_crop(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """torchvision's Resize and CenterCrop, or Resize to the square, as the authors' `build_transform` chains them."""
    size, side = preprocessing.image_size, preprocessing.resize_side
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    if not preprocessing.crop:
        return picture.resize((size, size), resampling)
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    resized_long = int(side * long / short)
    resized = picture.resize((side, resized_long) if width <= height else (resized_long, side), resampling)
    left, top = (round((length - size) / 2) for length in resized.size)
    return resized.crop((left, top, left + size, top + size))


@torch.inference_mode()
def reference_logits(network: StripMLP, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Float64 logits (batch, classes) of uint8 pixels (batch, size, size, 3)."""
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
    std = torch.tensor(preprocessing.std, dtype=torch.float64)
    normalised = (pixels.double() / 255 - mean) / std
    logits: Tensor = network(normalised.permute(0, 3, 1, 2))
    return logits
