import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.errors import OptionError
from model_export.reference import load_picture, resize_and_crop
from model_export.sample_pictures import EncodedPicture, read_pictures, sample_pictures
from service.artifact import Interpolation, Preprocessing
from service.decoding import EXIF_ORIENTATION, decode
from service.preprocessing import to_pixels

INPUT = 224


@pytest.fixture(scope="module")
def opened(samples: list[EncodedPicture]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(picture.data)) for picture in samples]


def test_they_are_the_same_every_time(samples: list[EncodedPicture]) -> None:
    assert sample_pictures() == samples


def test_none_is_like_another(samples: list[EncodedPicture]) -> None:
    assert len({picture.data for picture in samples}) == len({picture.name for picture in samples}) == len(samples)


def test_formats_and_modes(opened: list[Image.Image]) -> None:
    assert {picture.format for picture in opened} == {"JPEG", "PNG", "WEBP"}
    assert {picture.mode for picture in opened} == {"RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "I;16"}
    assert any("transparency" in picture.info for picture in opened if picture.mode == "P")


def test_sizes_and_shapes(opened: list[Image.Image]) -> None:
    sizes = [picture.size for picture in opened]
    assert any(max(size) < INPUT for size in sizes)
    assert any(min(size) > INPUT for size in sizes)
    assert any(min(size) < INPUT < max(size) for size in sizes)
    assert (INPUT, INPUT) in sizes
    assert any(width > 4 * height for width, height in sizes)
    assert any(height > 4 * width for width, height in sizes)


def test_one_is_stored_lying_on_its_side(opened: list[Image.Image]) -> None:
    assert 6 in {picture.getexif().get(EXIF_ORIENTATION) for picture in opened}


@pytest.mark.parametrize("interpolation", ["bilinear", "hamming", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", [True, False], ids=["crop", "no crop"])
def test_the_service_makes_the_same_pixels_of_them_as_the_reference(
    samples: list[EncodedPicture], interpolation: Interpolation, *, crop: bool
) -> None:
    preprocessing = Preprocessing(
        image_size=64,
        resize_side=73 if crop else 64,
        crop=crop,
        interpolation=interpolation,
        mean=(0,) * 3,
        std=(1,) * 3,
    )
    for picture in samples:
        served = to_pixels(decode(picture.data, max_pixels=10**6), preprocessing)
        reference = resize_and_crop(load_picture(picture.data), preprocessing)
        assert np.array_equal(served, np.asarray(reference)), picture.name


def test_a_directory_gives_its_files_in_order(tmp_path: Path) -> None:
    # As many as no file system lists in order by chance.
    names = [f"{letter}.png" for letter in "heAgcBfdia"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder").mkdir()
    assert read_pictures(tmp_path) == [EncodedPicture(name, name.encode()) for name in sorted(names)]


def test_what_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=re.escape(f"--pictures {tmp_path / 'none'} is not a directory")):
        read_pictures(tmp_path / "none")


def test_a_directory_without_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OptionError, match=re.escape(f"--pictures {tmp_path} holds no files")):
        read_pictures(tmp_path)
