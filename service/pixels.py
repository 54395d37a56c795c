"""From a file's bytes to the network's pixels.

A picture is decoded whole and resized as in training, to the very pixels. One that is much larger than needed is made
smaller in a first, cheap step, in which libjpeg or Pillow averages whole squares of pixels, and only then by the filter
that the model was trained with. It still reduces the picture `GAP` times, so that little shows of the first step.
"""

import numpy as np
from PIL import Image

from service.artifact import Preprocessing
from service.decoding import Decoded, decode, decode_reduced
from service.preprocessing import Pixels, centre, resized_size, to_pixels

GAP = 2.9
"""How many times larger than needed the first step leaves a picture, at least.

Where it is just that, pixels of photos are 0.4 to 0.6 levels off on average, by filter, and 1.2 in the worst photo with
the worst filter, 0.9 with bicubic; with a gap of 4 it would be 0.25 to 0.35, 0.7 and 0.5. Most pictures are left larger
and are closer. A little under 3, pictures of 12 megapixels become four times smaller for models of 224 px.
"""


def read_pixels(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, exact: bool) -> Pixels:
    """Decode, resize and crop one encoded picture to uint8 (size, size, 3).

    Args:
        data: as for `decode`.
        preprocessing: the model's.
        max_pixels: as for `decode`; pictures that are to be reduced count whole.
        exact: whether all pictures get the exact pixels, else those of which the shorter side is less than `2 * GAP`
            times as long as needed.

    Raises:
        BadPicture: as from `decode`.
    """
    if exact:
        return to_pixels(decode(data, max_pixels=max_pixels), preprocessing)
    side = preprocessing.resize_side if preprocessing.crop else preprocessing.image_size
    decoded = decode_reduced(data, max_pixels=max_pixels, least_side=GAP * side)
    if min(decoded.size) < 2 * GAP * side:
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
        reducing_gap=GAP,
    )
    return np.asarray(cut)
