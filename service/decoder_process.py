"""A process that decodes one picture after another, and ends itself when one of them takes too long.

Its limits are the kernel's, so they hold whatever the decoder's C code does: an alarm ends it after so many seconds,
and memory beyond its limit is refused (setitimer(2), setrlimit(2)). What a crash can harm is one picture.
"""

import resource
import signal
import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from socket import socket

from PIL import Image

from service.artifact import Preprocessing
from service.errors import BadPicture
from service.memory import keep_heap_for_pictures
from service.pixels import read_pixels

QUESTION = struct.Struct("<II")
"""What a question begins with: the lengths of the preprocessing's JSON and of the picture, which follow."""

ANSWER = struct.Struct("<BI")
"""What an answer begins with: `PIXELS` or `ERROR`, and the length of what follows."""

PIXELS, ERROR = 0, 1

BYTES_PER_PIXEL = 20
"""What decoding takes at its peak, which is a WEBP with alpha that has to be turned; an RGB picture takes 8."""

HEADROOM = 64 << 20
"""Bytes for codecs, and for pictures resized in part."""


@dataclass(frozen=True)
class DecodeLimits:
    """What one picture may take."""

    max_pixels: int
    max_bytes: int
    """Of the encoded picture."""
    seconds: float
    exact: bool
    """As for `read_pixels`."""

    @property
    def memory(self) -> int:
        """Bytes that a decoder process may have, beyond what it has when it starts."""
        return BYTES_PER_PIXEL * self.max_pixels + 2 * self.max_bytes + HEADROOM


def work(connection: socket, limits: DecodeLimits) -> None:
    """Answer until the connection is closed: `PIXELS` and the pixels, or `ERROR` and a code, a zero and a message."""
    # A terminal's signals are meant for the service, which needs this process until its last request is answered.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    keep_heap_for_pictures()
    # Pillow checks the header and every frame before it sets memory aside; here its limit is ours.
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    warnings.simplefilter("ignore")  # Pillow's of odd but readable metadata, which nobody would read
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allowed = _address_space() + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    questions = connection.makefile("rb")
    with suppress(ConnectionError):  # the service is gone, or does not want the answer any more
        while len(head := questions.read(QUESTION.size)) == QUESTION.size:
            preprocessing, picture = (questions.read(length) for length in QUESTION.unpack(head))
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)
            kind, answer = _answer(preprocessing, picture, limits)
            signal.setitimer(signal.ITIMER_REAL, 0)
            del picture  # not held while it waits
            connection.sendall(ANSWER.pack(kind, len(answer)) + answer)


def _answer(preprocessing: bytes, picture: bytes, limits: DecodeLimits) -> tuple[int, bytes]:
    try:
        pixels = read_pixels(picture, _preprocessing(preprocessing), max_pixels=limits.max_pixels, exact=limits.exact)
    except BadPicture as error:
        return ERROR, error.code.encode() + b"\0" + str(error).encode(errors="replace")
    return PIXELS, pixels.tobytes()


@lru_cache
def _preprocessing(text: bytes) -> Preprocessing:
    return Preprocessing.model_validate_json(text)


def _address_space() -> int:
    """Bytes (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
