"""From a file's bytes to the network's pixels.

A picture is decoded whole and resized as in training, to the very pixels. One that is much larger than needed is made
smaller in a first, cheap step, in which libjpeg or Pillow averages whole squares of pixels, and only then by the filter
that the model was trained with. That still makes it several times smaller, so that little shows of the first step.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from service.artifact import Interpolation, Preprocessing
from service.decoding import Decoded, decode, decode_reduced
from service.errors import PictureTooLarge
from service.preprocessing import Pixels, centre, resized_size, to_pixels

GAPS: Mapping[Interpolation, float] = {"bilinear": 2.9, "bicubic": 2.9, "hamming": 4.0, "lanczos": 4.0}
"""How many times larger than needed the first step leaves a picture, at least, by the filter that follows.

Where it is just that, pixels of photos are 0.2 to 0.45 levels off on average, and 0.85 in the worst photo; with 2.9 it
would be up to 0.58 on average for the last two filters. Most pictures are left larger and are closer. A little under 3,
pictures of 12 megapixels become four times smaller for models of 224 px.
"""


def read_pixels(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, exact: bool) -> Pixels:
    """Decode, resize and crop one encoded picture to uint8 (size, size, 3).

    Args:
        data: as for `decode`.
        preprocessing: the model's.
        max_pixels: as for `decode`; pictures that are to be reduced count whole.
        exact: whether all pictures get the exact pixels, else those of which the shorter side is less than twice the
            filter's gap times as long as needed.

    Raises:
        BadPicture: as from `decode`, or PictureTooLarge if there is not enough memory.
    """
    try:
        return _read_pixels(data, preprocessing, max_pixels=max_pixels, exact=exact)
    except MemoryError as error:
        raise PictureTooLarge("the picture takes more memory to decode than there is") from error


def _read_pixels(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, exact: bool) -> Pixels:
    if exact:
        return to_pixels(decode(data, max_pixels=max_pixels), preprocessing)
    side = preprocessing.resize_side if preprocessing.crop else preprocessing.image_size
    gap = GAPS[preprocessing.interpolation]
    decoded = decode_reduced(data, max_pixels=max_pixels, least_side=gap * side)
    if min(decoded.size) < 2 * gap * side:
        return to_pixels(decoded.image, preprocessing)
    return _to_pixels_in_two_steps(decoded, preprocessing)


def _to_pixels_in_two_steps(decoded: Decoded, preprocessing: Preprocessing) -> Pixels:
    """Only what is cut out is resized. Pillow keeps the cut in single precision, which shifts it imperceptibly."""
    size, (width, height) = preprocessing.image_size, decoded.size
    resized, (left, top) = (size, size), (0, 0)
    if preprocessing.crop:
        resized = resized_size(decoded.size, preprocessing.resize_side)
        left, top = centre(resized, size)
    across, down = width / decoded.reduction / resized[0], height / decoded.reduction / resized[1]
    cut = decoded.image.resize(
        (size, size),
        Image.Resampling[preprocessing.interpolation.upper()],
        box=(left * across, top * down, (left + size) * across, (top + size) * down),
        reducing_gap=GAPS[preprocessing.interpolation],
    )
    return np.asarray(cut)
