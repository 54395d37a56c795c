import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model_export.reference import load_picture, reference_logits, resize_and_crop
from service.artifact import Interpolation, Preprocessing
from tests.model_export.checkpoints import SMALL, random_network


def _preprocessing(size: int, side: int, *, crop: bool = True, **changes: Any) -> Preprocessing:
    values = {"interpolation": "bicubic", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} | changes
    return Preprocessing.model_validate({"image_size": size, "resize_side": side, "crop": crop, **values})


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# Written out by hand from torchvision's rules: the long side is truncated, the offset rounded half to even.
CROPS = [
    ((500, 375), (341, 256), (58, 16)),
    ((375, 500), (256, 341), (16, 58)),
    ((500, 373), (343, 256), (60, 16)),
    ((370, 500), (256, 345), (16, 60)),
    ((300, 300), (256, 256), (16, 16)),
    ((256, 259), (256, 259), (16, 18)),
    ((100, 40), (640, 256), (208, 16)),
    ((257, 256), (257, 256), (16, 16)),
    ((60, 600), (256, 2560), (16, 1168)),
]


@pytest.mark.parametrize(("original", "resized", "corner"), CROPS, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "hamming", "bicubic", "lanczos"])
def test_short_side_is_resized_and_the_centre_cut(
    original: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], interpolation: Interpolation
) -> None:
    picture = _noise(*original)
    left, top = corner
    expected = picture.resize(resized, Image.Resampling[interpolation.upper()])
    expected = expected.crop((left, top, left + 224, top + 224))
    assert resize_and_crop(picture, _preprocessing(224, 256, interpolation=interpolation)) == expected


@pytest.mark.parametrize("original", [(500, 375), (20, 90), (64, 64)])
def test_without_crop_the_whole_picture_is_squeezed_into_the_square(original: tuple[int, int]) -> None:
    picture = _noise(*original)
    expected = picture.resize((64, 64), Image.Resampling.BICUBIC)
    assert resize_and_crop(picture, _preprocessing(64, 64, crop=False)) == expected


def _encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _palette() -> Image.Image:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    return picture


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_encoded(Image.new("RGB", (1, 1), (1, 2, 3))), [(1, 2, 3)]),
        (_encoded(Image.new("RGBA", (1, 1), (1, 2, 3, 0))), [(1, 2, 3)]),
        (_encoded(Image.new("L", (1, 1), 77)), [(77, 77, 77)]),
        (_encoded(Image.new("LA", (1, 1), (77, 0))), [(77, 77, 77)]),
        (_encoded(Image.new("1", (1, 1), 1)), [(255, 255, 255)]),
        (_encoded(_palette()), [(10, 20, 30), (40, 50, 60)]),
        (_encoded(_palette(), transparency=b"\0\x80"), [(10, 20, 30), (40, 50, 60)]),
        (_encoded(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), [(0, 255, 255)]),
        (_encoded(Image.fromarray(np.array([[0, 255, 256, 0xFFFF]], dtype=np.uint16))), [0, 0, 1, 255]),
        (_encoded(Image.fromarray(np.array([[0, 0x7FFF]], dtype=np.int32)), "TIFF"), [0, 127]),
    ],
    ids=["RGB", "RGBA", "L", "LA", "1", "P", "P, transparent", "CMYK", "I;16", "I"],
)
def test_pictures_of_every_mode_become_rgb(data: bytes, expected: list[Any]) -> None:
    picture = load_picture(data)
    colours = [(value,) * 3 if isinstance(value, int) else value for value in expected]
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in range(picture.width)] == colours


# EXIF 2.32, section 4.6.4: which stored corner is the upright picture's top left, and whether sides swap.
ORIENTATIONS = {1: "abcd", 2: "badc", 3: "dcba", 4: "cdab", 5: "acbd", 6: "cadb", 7: "dbca", 8: "bdac"}


@pytest.mark.parametrize(("orientation", "upright"), ORIENTATIONS.items())
def test_pictures_stand_upright(orientation: int, upright: str) -> None:
    stored = Image.new("L", (2, 2))
    stored.putdata(list(b"abcd"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = load_picture(_encoded(stored, exif=exif))
    assert picture.getchannel(0).tobytes().decode() == upright


def test_logits_are_those_of_normalised_pixels() -> None:
    network = random_network(SMALL).double()
    preprocessing = _preprocessing(32, 32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    channels = [
        (pixels[..., 0] / 255 - 0.1) / 0.4,
        (pixels[..., 1] / 255 - 0.2) / 0.5,
        (pixels[..., 2] / 255 - 0.3) / 0.6,
    ]
    found = reference_logits(network, torch.from_numpy(pixels), preprocessing)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, network(torch.from_numpy(np.stack(channels, axis=1))))
