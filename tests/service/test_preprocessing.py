"""Preprocessing gives the pixels of Pillow's resize and centre crop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service import preprocessing as module
from service.artifact import Interpolation, Preprocessing
from service.preprocessing import to_pixels
from tests.service.pictures import noise

FILTERS: list[Interpolation] = ["bilinear", "hamming", "bicubic", "lanczos"]


def made(image_size: int, resize_side: int, interpolation: Interpolation, *, crop: bool = True) -> Preprocessing:
    return Preprocessing(
        image_size=image_size,
        resize_side=resize_side,
        crop=crop,
        interpolation=interpolation,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )


def by_pillow(picture: Image.Image, wanted: Preprocessing) -> NDArray[np.uint8]:
    """torchvision's Resize and CenterCrop, written out."""
    size, side = wanted.image_size, wanted.resize_side
    resampling = Image.Resampling[wanted.interpolation.upper()]
    if not wanted.crop:
        return np.asarray(picture.resize((size, size), resampling))
    short, long = sorted(picture.size)
    long_side = int(side * long / short)
    width, height = (side, long_side) if picture.width == short else (long_side, side)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(picture.resize((width, height), resampling))[top : top + size, left : left + size]


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Up to 200 times as long as wide, lying or standing."""
    short = draw(st.integers(1, 40) | st.integers(40, 400))
    long = draw(st.integers(short, min(short * draw(st.sampled_from([2, 10, 200])), 8000)))
    size = draw(st.permutations([short, long]))
    return noise(size[0], size[1], seed=draw(st.integers(0, 9)))


wishes = st.builds(
    lambda size, margin, interpolation, crop: made(size, size + margin, interpolation, crop=crop),
    st.integers(32, 224),
    st.integers(0, 40),
    st.sampled_from(FILTERS),
    st.booleans(),
)


@given(pictures(), wishes)
@settings(max_examples=100)
def test_pixels_are_those_of_pillow(picture: Image.Image, wanted: Preprocessing) -> None:
    pixels = to_pixels(picture, wanted)

    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, by_pillow(picture, wanted))


@given(pictures(), wishes)
@settings(max_examples=100)
def test_cutting_between_the_axes_changes_a_level_at_most(picture: Image.Image, wanted: Preprocessing) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_RESIZED_PIXELS", 0)
        pixels = to_pixels(picture, wanted)

    np.testing.assert_allclose(pixels.astype(int), by_pillow(picture, wanted), rtol=0, atol=1)


@given(pictures(), wishes)
@settings(max_examples=100)
def test_cutting_before_both_axes_changes_two_levels_at_most(picture: Image.Image, wanted: Preprocessing) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_RESIZED_PIXELS", 0)
        patch.setattr(module, "MOST_STRIP_PIXELS", 0)
        pixels = to_pixels(picture, wanted)

    np.testing.assert_allclose(pixels.astype(int), by_pillow(picture, wanted), rtol=0, atol=2)


@pytest.mark.parametrize("size", [(40, 630), (524, 48), (48, 88), (148, 48)])
def test_a_picture_that_is_reduced_keeps_its_first_axis_whole(size: tuple[int, int]) -> None:
    """Cut before both axes, each of these would be two levels off."""
    wanted, picture = made(32, 36, "bilinear"), noise(*size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_RESIZED_PIXELS", 0)
        patch.setattr(module, "MOST_STRIP_PIXELS", 0)
        pixels = to_pixels(picture, wanted)

    np.testing.assert_allclose(pixels.astype(int), by_pillow(picture, wanted), rtol=0, atol=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(1, 600), (2001, 3), (300, 80_000), (80_000, 300)])
def test_very_elongated_pictures_differ_by_a_level_at_most(size: tuple[int, int], interpolation: Interpolation) -> None:
    wanted = made(224, 256, interpolation)
    picture = noise(*size)

    pixels = to_pixels(picture, wanted)

    np.testing.assert_allclose(pixels.astype(int), by_pillow(picture, wanted), rtol=0, atol=1)


@pytest.mark.parametrize("size", [(1, 50_000_000), (50_000_000, 1)])
def test_the_longest_picture_is_never_resized_whole(size: tuple[int, int]) -> None:
    """Whole, it would be 256 x 12,800,000,000 pixels."""
    pixels = to_pixels(Image.new("RGB", size, "orange"), made(224, 256, "bicubic"))

    assert (pixels == (255, 165, 0)).all()
