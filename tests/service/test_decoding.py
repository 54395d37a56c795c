"""Decoding: every mode, orientation and format, and the refusal of all else."""

import io
import json
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features

from service.decoding import EXIF_ORIENTATION, FORMATS, PILLOWS_MOST_PIXELS, decode, decode_reduced
from service.errors import BadPicture, BrokenPicture, PictureTooLarge, UnsupportedPicture
from tests.conftest import REPOSITORY
from tests.service.pictures import encode, noise

PLENTY = 50_000_000


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def with_palette(transparency: int | bytes | None) -> bytes:
    picture = noise(20, 10, "P")
    picture.putpalette(random.Random(0).randbytes(768))
    return encode(picture, "PNG", **({} if transparency is None else {"transparency": transparency}))


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (encode(noise(20, 10, "L").convert("1")), "1"),
        (encode(noise(20, 10, "L")), "L"),
        (encode(noise(20, 10, "L"), transparency=128), "L"),
        (encode(noise(20, 10, "LA")), "LA"),
        (encode(noise(20, 10, "RGB")), "RGB"),
        (encode(noise(20, 10, "RGB"), transparency=(1, 2, 3)), "RGB"),
        (encode(noise(20, 10, "RGBA")), "RGBA"),
        (with_palette(None), "P"),
        (with_palette(7), "P"),
        (with_palette(bytes(range(256))), "P"),
        (encode(noise(20, 10, "CMYK"), "TIFF"), "CMYK"),
        (encode(noise(20, 10, "CMYK"), "JPEG"), "CMYK"),
        (encode(noise(20, 10, "YCbCr"), "TIFF"), "YCbCr"),
        (encode(noise(20, 10, "LAB"), "TIFF"), "LAB"),
    ],
)
def test_eight_bit_modes_become_rgb_as_pillow_converts_them(data: bytes, mode: str) -> None:
    original = Image.open(io.BytesIO(data))
    assert original.mode == mode
    original.info.pop("transparency", None)  # only silences Pillow's advice to keep it

    rgb = decode(data, max_pixels=PLENTY)

    assert rgb.mode == "RGB"
    np.testing.assert_array_equal(pixels(rgb), pixels(original.convert("RGB")))


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_upper_eight_bits(file_format: str, dtype: str) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << 16, (10, 20)).astype(dtype)

    rgb = decode(encode(Image.fromarray(samples), file_format), max_pixels=PLENTY)

    np.testing.assert_array_equal(pixels(rgb), np.repeat(samples[..., None] >> 8, 3, axis=2))


def test_integers_beyond_sixteen_bits_saturate() -> None:
    samples = np.array([[-5, 0, 0x1234, 0xFFFF, 0x10000, 2**31 - 1]], dtype=np.int32)

    rgb = decode(encode(Image.fromarray(samples), "TIFF"), max_pixels=PLENTY)

    assert pixels(rgb)[0, :, 0].tolist() == [0, 0, 0x12, 0xFF, 0xFF, 0xFF]


def test_floating_point_samples_are_refused() -> None:
    with pytest.raises(UnsupportedPicture, match="floating-point"):
        decode(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), max_pixels=PLENTY)


# Stored so that each orientation's instruction undoes it (EXIF 2.32, section 4.6.4): the place of the stored
# first row and first column.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_every_orientation_comes_out_upright(file_format: str, orientation: int) -> None:
    upright = pixels(noise(20, 10))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    lossless = {"lossless": True} if file_format == "WEBP" else {}

    rgb = decode(encode(stored, file_format, exif=exif, **lossless), max_pixels=PLENTY)

    np.testing.assert_array_equal(pixels(rgb), upright)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("file_format", ["JPEG", "AVIF"])
def test_every_orientation_comes_out_upright_in_lossy_formats(file_format: str, orientation: int) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32] = 255
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))

    rgb = decode(encode(stored, file_format, exif=exif, quality=95), max_pixels=PLENTY)

    np.testing.assert_allclose(pixels(rgb).astype(int), upright, atol=60)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation

    rgb = decode(encode(noise(20, 10), exif=exif), max_pixels=PLENTY)

    np.testing.assert_array_equal(pixels(rgb), pixels(noise(20, 10)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's of just that
@pytest.mark.parametrize("exif", [b"Exif\0\0not TIFF", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"MM\0*"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_ignored(file_format: str, exif: bytes) -> None:
    rgb = decode(encode(noise(20, 10), file_format, exif=exif), max_pixels=PLENTY)

    assert rgb.size == (20, 10)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_accepted_format_is_decoded(file_format: str) -> None:
    data = encode(noise(20, 10), file_format)

    rgb = decode(data, max_pixels=PLENTY)

    np.testing.assert_array_equal(pixels(rgb), pixels(Image.open(io.BytesIO(data)).convert("RGB")))


def test_formats_are_those_that_this_pillow_can_read() -> None:
    assert all(features.check(name) for name in ("jpg", "zlib", "webp", "libtiff", "avif"))


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_counts(file_format: str) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    lossless = {"lossless": True} if file_format == "WEBP" else {}

    rgb = decode(encode(first, file_format, save_all=True, append_images=[second], **lossless), max_pixels=PLENTY)

    np.testing.assert_array_equal(pixels(rgb), pixels(first))


@pytest.mark.parametrize("file_format", ["PPM", "TGA", "ICO", "PCX", "JPEG2000"])
def test_other_formats_that_pillow_knows_are_refused(file_format: str) -> None:
    with pytest.raises(UnsupportedPicture, match="accepted are JPEG, PNG"):
        decode(encode(noise(20, 10), file_format), max_pixels=PLENTY)


@pytest.mark.parametrize("data", [b"", b"\0", b"hello", b"%PDF-1.7", b"<svg/>"])
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedPicture):
        decode(data, max_pixels=PLENTY)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_truncated_picture_is_broken(file_format: str) -> None:
    data = encode(noise(64, 64), file_format)

    with pytest.raises(BrokenPicture):
        decode(data[: len(data) // 2], max_pixels=PLENTY)


def test_the_pixel_limit_is_inclusive() -> None:
    data = encode(noise(20, 10))

    assert decode(data, max_pixels=200).size == (20, 10)
    with pytest.raises(PictureTooLarge, match="more than the 199 pixels allowed"):
        decode(data, max_pixels=199)


def test_size_is_checked_before_any_pixel_is_decoded() -> None:
    """The pixels cannot be decoded, which nobody gets to notice."""
    with pytest.raises(PictureTooLarge):
        decode(encode(noise(64, 64), "JPEG")[:1000], max_pixels=4095)


@pytest.mark.parametrize(
    ("size", "least", "reduction"),
    [
        ((64, 48), 24, 2),
        ((64, 48), 25, 1),
        ((48, 64), 12, 4),
        ((64, 48), 6, 8),
        ((64, 48), 1, 8),
        ((67, 50), 12, 4),
        ((50, 67), 6, 8),
        ((8, 8), 1, 8),
        ((1, 99), 1, 1),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_reduced_as_far_as_their_shorter_side_allows(
    size: tuple[int, int], least: int, reduction: int, mode: str
) -> None:
    decoded = decode_reduced(encode(noise(*size, mode), "JPEG"), max_pixels=PLENTY, least_side=least)

    assert (decoded.size, decoded.reduction, decoded.image.mode) == (size, reduction, "RGB")
    assert decoded.image.size == tuple(-(-side // reduction) for side in size)


@pytest.mark.parametrize("file_format", [name for name in FORMATS if name != "JPEG"])
def test_no_other_format_is_reduced(file_format: str) -> None:
    decoded = decode_reduced(encode(noise(64, 48), file_format), max_pixels=PLENTY, least_side=1)

    assert (decoded.size, decoded.reduction, decoded.image.size) == ((64, 48), 1, (64, 48))


def test_a_jpeg_of_several_pictures_is_reduced_too() -> None:
    first, second = noise(64, 48), noise(64, 48, seed=1)
    data = encode(first, "MPO", save_all=True, append_images=[second])

    decoded = decode_reduced(data, max_pixels=PLENTY, least_side=12)

    assert (decoded.size, decoded.reduction, decoded.image.size) == ((64, 48), 4, (16, 12))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("stored", "reduction"), [((64, 48), 4), ((62, 50), 2), ((63, 50), 1)])
def test_a_turned_picture_is_reduced_by_what_divides_its_sides(
    orientation: int, stored: tuple[int, int], reduction: int
) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation

    decoded = decode_reduced(encode(noise(*stored), "JPEG", exif=exif), max_pixels=PLENTY, least_side=12)

    assert decoded.size == (stored if orientation < 5 else stored[::-1])
    assert decoded.reduction == (4 if orientation == 1 else reduction)
    assert decoded.image.size == tuple(-(-side // decoded.reduction) for side in decoded.size)


def test_the_pixel_limit_is_about_the_whole_picture() -> None:
    data = encode(noise(64, 64), "JPEG")

    assert decode_reduced(data, max_pixels=4096, least_side=8).image.size == (8, 8)
    with pytest.raises(PictureTooLarge):
        decode_reduced(data, max_pixels=4095, least_side=8)


def test_a_truncated_picture_is_broken_when_reduced_too() -> None:
    data = encode(noise(64, 64), "JPEG")

    with pytest.raises(BrokenPicture):
        decode_reduced(data[: len(data) // 2], max_pixels=PLENTY, least_side=8)


def announcing(width: int, height: int) -> bytes:
    """A PNG with fewer pixels than its header says."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    data = encode(noise(8, 8, "L"))
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # what it is about
def test_a_limit_above_what_pillow_warns_of_is_kept() -> None:
    """Pillow warns from 89,478,486 pixels on."""
    with pytest.raises(PictureTooLarge):
        decode(announcing(9_500, 9_500), max_pixels=9_500**2 - 1)
    with pytest.raises(BrokenPicture):
        decode(announcing(9_500, 9_500), max_pixels=9_500**2)


def test_pillows_own_limit() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == PILLOWS_MOST_PIXELS
    with pytest.raises(PictureTooLarge):
        decode(announcing(PILLOWS_MOST_PIXELS + 1, 1), max_pixels=PILLOWS_MOST_PIXELS)


PEAK = """
import sys
from pathlib import Path
from service.decoding import decode
from service.errors import PictureTooLarge

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

data, before = sys.stdin.buffer.read(), peak()
try:
    decode(data, max_pixels=50_000_000)
except PictureTooLarge:
    print(peak() - before)
"""
"""Prints the KiB of memory that the refusal took, in a process whose peak nothing else has raised."""


@pytest.mark.parametrize("disposal", [0, 2, 3])
def test_a_picture_that_is_too_large_takes_no_memory(disposal: int) -> None:
    """Pillow makes room for what is to follow a GIF's first frame when it opens the file."""
    side = 20_000
    control = bytes([0x21, 0xF9, 4, disposal << 2, 0, 0, 0, 0])
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, side, side, 0) + b"\2\1\0\0;"
    data = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + control + frame

    command = [sys.executable, "-c", PEAK]
    done = subprocess.run(command, cwd=REPOSITORY, input=data, capture_output=True, check=True)

    assert int(done.stdout) < 50_000


@given(st.binary(max_size=40), st.integers(0, 2000), st.sampled_from(FORMATS))
@settings(max_examples=200)
def test_damaged_pictures_are_decoded_or_refused(damage: bytes, place: int, file_format: str) -> None:
    data = bytearray(encode(noise(24, 16), file_format))
    place %= len(data)
    data[place : place + len(damage)] = damage

    with suppress(BadPicture):
        assert decode(bytes(data), max_pixels=PLENTY).mode == "RGB"


# Pillow warns of odd but readable metadata, and calls a JPEG with further pictures in it MPO.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_files_are_decoded_if_pillow_can_and_refused_otherwise(shared: Path) -> None:
    with zipfile.ZipFile(shared / "data" / "odd_images.zip") as archive:
        expected = [json.loads(line) for line in archive.read("expected.jsonl").splitlines()]
        assert len(expected) == 448
        for each in expected:
            accepted = each["pillow"] == "ok" and each["format"] in (*FORMATS, "MPO") and each["mode"] != "F"
            if accepted and each["size"][0] * each["size"][1] <= PLENTY:
                assert decode(archive.read(each["name"]), max_pixels=PLENTY).mode == "RGB", each
            else:
                with pytest.raises(BadPicture):
                    decode(archive.read(each["name"]), max_pixels=PLENTY)
