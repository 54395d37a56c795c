"""From bytes to pixels: exactly as in training, or nearly so where a picture is much larger than needed."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.artifact import Interpolation, Preprocessing
from service.decoding import EXIF_ORIENTATION, decode
from service.pixels import GAPS, read_pixels
from service.preprocessing import Pixels, to_pixels
from service.session import Session
from tests.service.pictures import encode, noise, smooth
from tests.service.test_preprocessing import FILTERS, made

PLENTY = 50_000_000

MOST_OFF = 0.5
"""Levels, as the mean over a picture."""

FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {"quality": 95, "subsampling": 0}),
    ("JPEG", {"quality": 90, "progressive": True}),
    ("PNG", {}),
    ("BMP", {}),
]


def near(data: bytes, wanted: Preprocessing) -> Pixels:
    return read_pixels(data, wanted, max_pixels=PLENTY, exact=False)


def exact(data: bytes, wanted: Preprocessing) -> Pixels:
    return read_pixels(data, wanted, max_pixels=PLENTY, exact=True)


def off(data: bytes, wanted: Preprocessing) -> float:
    """How far the near way is from the exact one, in levels on average."""
    return float(np.abs(near(data, wanted).astype(int) - exact(data, wanted)).mean())


wishes = st.builds(
    lambda size, margin, interpolation, crop: made(size, size + margin, interpolation, crop=crop),
    st.integers(24, 40),
    st.integers(0, 8),
    st.sampled_from(FILTERS),
    st.booleans(),
)


def needed(wanted: Preprocessing) -> int:
    """The length of the shorter side that a resized picture has."""
    return wanted.resize_side if wanted.crop else wanted.image_size


def file_of(picture: Image.Image, file_format: str, options: dict[str, Any], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(picture, file_format, **options, **({} if file_format == "BMP" else {"exif": exif}))


@given(st.data(), wishes, st.sampled_from(FORMATS), st.integers(1, 8), st.integers(0, 9))
@settings(max_examples=100)
def test_a_picture_much_larger_than_needed_is_half_a_level_off_at_most(
    data: st.DataObject, wanted: Preprocessing, form: tuple[str, dict[str, Any]], orientation: int, seed: int
) -> None:
    least = math.ceil(2 * GAPS[wanted.interpolation] * needed(wanted))
    short = data.draw(st.integers(least, 3 * least))
    width, height = data.draw(st.permutations([short, data.draw(st.integers(short, 2 * short))]))
    file = file_of(smooth(width, height, seed), *form, orientation)

    assert near(file, wanted).shape == (wanted.image_size, wanted.image_size, 3)
    assert off(file, wanted) <= MOST_OFF


@given(st.data(), wishes, st.sampled_from(FORMATS), st.integers(1, 8))
@settings(max_examples=100)
def test_any_other_picture_is_exact(
    data: st.DataObject, wanted: Preprocessing, form: tuple[str, dict[str, Any]], orientation: int
) -> None:
    short = data.draw(st.integers(1, math.ceil(2 * GAPS[wanted.interpolation] * needed(wanted)) - 1))
    width, height = data.draw(st.permutations([short, data.draw(st.integers(short, 20 * short))]))
    file = file_of(noise(width, height), *form, orientation)

    np.testing.assert_array_equal(near(file, wanted), to_pixels(decode(file, max_pixels=PLENTY), wanted))


@pytest.mark.parametrize(("file_format", "options"), FORMATS)
def test_the_exact_way_is_exact_at_any_size(file_format: str, options: dict[str, Any]) -> None:
    wanted = made(16, 18, "bicubic")
    file = encode(noise(600, 400), file_format, **options)

    np.testing.assert_array_equal(exact(file, wanted), to_pixels(decode(file, max_pixels=PLENTY), wanted))
    assert off(file, wanted) > 0, "the other way takes two steps"


@pytest.mark.parametrize("enlarged_as", [None, "JPEG", "PNG"])
def test_photos_are_half_a_level_off_at_most_on_average_and_classified_the_same(
    shared: Path, bundled_models: Path, enlarged_as: str | None
) -> None:
    session = Session.open(next(bundled_models.glob("*/*/model.onnx")), device="cpu", threads=1)
    wanted = session.artifact.preprocessing
    photos = [path.read_bytes() for path in sorted((shared / "data" / "photos").iterdir())]
    if enlarged_as:
        photos = [resized(data, 1500, enlarged_as) for data in photos[::4]]
    pairs = [(near(data, wanted), exact(data, wanted)) for data in photos]

    assert np.mean([np.abs(one.astype(int) - other).mean() for one, other in pairs]) <= MOST_OFF
    assert any((one != other).any() for one, other in pairs)
    best = [session.run(np.stack(pixels)).logits.argmax(axis=1) for pixels in zip(*pairs, strict=True)]
    np.testing.assert_array_equal(*best)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_photos_are_half_a_level_off_at_most_on_average_where_most_shows(
    shared: Path, interpolation: Interpolation
) -> None:
    wanted = made(32, 36, interpolation)
    short = 2 * math.ceil(GAPS[interpolation] * wanted.resize_side)  # the first step leaves just the gap
    photos = [resized(path.read_bytes(), short, "JPEG") for path in sorted((shared / "data" / "photos").iterdir())]

    assert 0.1 < np.mean([off(photo, wanted) for photo in photos]) <= MOST_OFF


def resized(data: bytes, short: int, file_format: str) -> bytes:
    """The photo with this shorter side."""
    photo = decode(data, max_pixels=PLENTY)
    scale = short / min(photo.size)
    size = round(photo.width * scale), round(photo.height * scale)
    options = {"quality": 90} if file_format == "JPEG" else {"compress_level": 1}
    return encode(photo.resize(size, Image.Resampling.BICUBIC), file_format, **options)
