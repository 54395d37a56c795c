"""From a file's bytes to an upright RGB picture.

How modes become RGB: as Pillow's `convert("RGB")`, which is what the models were trained with, so an alpha
channel is dropped, a palette is looked up, grey is repeated and CMYK is inverted without colour profiles.
Integer samples of more than 8 bits (modes I;16 and I) are taken as 16 bit and keep their upper 8, as Pillow does
with 16-bit colour. Floating-point samples have no agreed range and are refused. Of several frames or pages, the
first counts. The EXIF orientation is applied. JPEGs can be reduced on the way by libjpeg, which leaves out what it
would decode in vain.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from service.errors import BrokenPicture, PictureTooLarge, UnsupportedPicture

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises; the latter where warnings are errors."""

PILLOWS_MOST_PIXELS = 178_956_970
"""Twice `Image.MAX_IMAGE_PIXELS`: from there on Pillow refuses instead of warning."""

REDUCTIONS = (8, 4, 2)
"""How many times smaller libjpeg can make a picture while it decodes it."""

START_OF_SCAN = b"\xff\xda"
"""A JPEG's marker (ITU-T T.81, section B.2.3); within a scan's own data, zeros keep it from appearing."""

MOST_SCANS = 100
"""Ten times what encoders make of a picture. Each costs a pass over all of it, and takes a few bytes."""

EXIF_ORIENTATION = 0x0112

# EXIF 2.32, section 4.6.4: how the stored picture has to be turned to stand upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

LYING = {UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
"""What makes the stored width the height."""


@dataclass(frozen=True)
class Decoded:
    """An upright RGB picture, perhaps reduced."""

    image: Image.Image
    size: tuple[int, int]
    """Width and height of the picture before it was reduced, upright."""
    reduction: int
    """How many pixels of the picture along each axis became one of `image`, whose sides are rounded up; 1: none."""


def decode(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode one encoded picture.

    Args:
        data: the file's content, in one of `FORMATS`.
        max_pixels: the most pixels (width times height) it may have; checked before any pixel is decoded. Pillow has
            a limit of its own, `PILLOWS_MOST_PIXELS`, which it checks before it makes room for anything.

    Returns:
        The upright picture in mode RGB.

    Raises:
        UnsupportedPicture: not a picture, of another format, or of floating-point samples.
        PictureTooLarge: it has more than `max_pixels`.
        BrokenPicture: the format is known, the content is not decodable.
        MemoryError: there is not enough for it.
    """
    return decode_reduced(data, max_pixels=max_pixels, least_side=PILLOWS_MOST_PIXELS).image


def decode_reduced(data: bytes, *, max_pixels: int, least_side: float) -> Decoded:
    """As `decode`, but a JPEG is reduced as far as its shorter side keeps `least_side` pixels.

    Pictures of other formats are never reduced.
    """
    too_large = f"the picture, or a frame of it, has more than the {max_pixels} pixels allowed"
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedPicture(f"not a readable picture; accepted are {', '.join(FORMATS)}") from error
    except TOO_LARGE as error:
        raise PictureTooLarge(too_large) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything; whatever it is, this picture is at fault
        raise BrokenPicture(f"the picture's header cannot be read: {error}") from error
    if picture.width * picture.height > max_pixels:
        raise PictureTooLarge(too_large)
    if picture.mode == "F":
        raise UnsupportedPicture("pictures with floating-point samples are not accepted; use 8 or 16 bit")
    if isinstance(picture, JpegImageFile) and data.count(START_OF_SCAN) > MOST_SCANS:
        raise BrokenPicture(f"the JPEG picture has more than the {MOST_SCANS} scans allowed")
    stored = picture.size
    try:
        reduction = _reduce(picture, least_side) if isinstance(picture, JpegImageFile) else 1
        picture.load()
        image, turn = _to_rgb(picture), _turn(picture)
        if turn is not None:
            image = image.transpose(turn)
    except TOO_LARGE as error:
        raise PictureTooLarge(too_large) from error
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise BrokenPicture(f"the {picture.format} picture cannot be decoded: {error}") from error
    return Decoded(image, stored[::-1] if turn in LYING else stored, reduction)


def _reduce(picture: JpegImageFile, least_side: float) -> int:
    """Have the picture decoded smaller, before any of it is; how many times."""
    for reduction in REDUCTIONS:
        # Where a side is rounded up the last pixel is a part of one, which must not be turned to the front.
        whole = _turn(picture) is None or all(side % reduction == 0 for side in picture.size)
        if min(picture.size) >= reduction * least_side and whole:
            picture.draft(None, (picture.width // reduction, picture.height // reduction))
            return reduction
    return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        samples = np.asarray(picture).clip(0, 0xFFFF) >> 8
        picture = Image.fromarray(samples.astype(np.uint8))
    # Alpha is dropped on purpose; Pillow would warn of it for a palette with several transparent entries.
    picture.info.pop("transparency", None)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _turn(picture: ImageFile.ImageFile) -> Image.Transpose | None:
    try:
        orientation = picture.getexif().get(EXIF_ORIENTATION)
    except Exception:  # the parser raises anything; a picture with unreadable EXIF has no orientation
        return None
    return UPRIGHT.get(orientation) if isinstance(orientation, int) else None
