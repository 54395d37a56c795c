"""Decodes pictures in processes, as a thread that hangs or crashes in a decoder cannot be ended without all the others.

Measured, for pictures within the default limits: a JPEG of 0.33 MB whose 2,000 scans cover 50 megapixels took 68 s, and
one of 20 MiB would take hours; every other format's worst file took up to 3.6 s. docs/reliability.md has the table.
"""

import logging
import signal
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from threading import Lock

import numpy as np

from service import decoder_process
from service.artifact import Preprocessing
from service.decoder_process import DecodeLimits, ask
from service.errors import BadPicture, BrokenPicture, PictureTooLarge, PictureTooSlow, ServiceError, UnsupportedPicture
from service.metrics import Metrics
from service.preprocessing import Pixels

logger = logging.getLogger(__name__)

# Processes come from one that has the modules and no threads: so they start in milliseconds and share its memory.
FORK = get_context("forkserver")
FORK.set_forkserver_preload([decoder_process.__name__])

ERRORS: dict[str, type[BadPicture]] = {
    error.code: error for error in (PictureTooLarge, UnsupportedPicture, BrokenPicture)
}

END_SECONDS = 5
"""How long a process gets to end once its connection is closed."""


class _Died(Exception):
    """A decoder process has ended with a picture in work."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode


class _Decoder:
    """One process. Used by one thread at a time."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._connection, theirs = FORK.Pipe()
        self.process: BaseProcess = FORK.Process(
            target=decoder_process.work, args=(theirs, limits), name="decoder", daemon=True
        )
        self.process.start()
        theirs.close()

    def read_pixels(self, data: bytes, preprocessing: Preprocessing) -> Pixels:
        """Raises BadPicture, or _Died."""
        try:
            ask(self._connection, preprocessing.model_dump_json().encode(), data)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            self.process.join()
            raise _Died(self.process.exitcode) from error
        if answer[:1] == decoder_process.PIXELS:
            size = preprocessing.image_size
            return np.frombuffer(answer, np.uint8, offset=1).reshape(size, size, 3)
        code, _, message = answer[1:].partition(b"\0")
        raise ERRORS[code.decode()](message.decode())

    def close(self) -> None:
        self._connection.close()
        self.process.join(END_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


class Decoders:
    """Decoder processes, as many as threads ask at once. May be used from any thread.

    Args:
        limits: of each picture.
        metrics: told of processes that died.
    """

    def __init__(self, limits: DecodeLimits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._lock = Lock()
        self._idle: list[_Decoder] = []
        self._closed = False
        self.failure: str | None = None
        """Why no process could be started when one was last needed; None if it could."""

    def start(self, processes: int) -> None:
        """Have so many ready. Raises OSError if they cannot be started."""
        self._idle += [_Decoder(self._limits) for _ in range(processes)]

    def read_pixels(self, data: bytes, preprocessing: Preprocessing) -> Pixels:
        """Decode, resize and crop one encoded picture to uint8 (size, size, 3).

        A process that dies without its alarm may have been ended from outside, so its picture gets a second one.

        Raises:
            BadPicture: as from `service.pixels.read_pixels`, or PictureTooSlow, or it crashed two processes.
            ServiceError: no process can be started.
        """
        try:
            return self._read_pixels(self._take(), data, preprocessing)
        except _Died as died:
            logger.warning("a decoder process ended with %s; its picture gets another one", died.exitcode)
        try:  # a new one, as those that wait may have ended with the first
            return self._read_pixels(self._new(), data, preprocessing)
        except _Died as died:
            raise BrokenPicture("the decoder crashed on the picture") from died

    def _read_pixels(self, decoder: _Decoder, data: bytes, preprocessing: Preprocessing) -> Pixels:
        try:
            pixels = decoder.read_pixels(data, preprocessing)
        except _Died as died:
            decoder.close()
            too_slow = died.exitcode == -signal.SIGALRM
            self._metrics.decoder_deaths.labels("timeout" if too_slow else "crash").inc()
            if too_slow:
                raise PictureTooSlow(
                    f"decoding the picture took longer than the {self._limits.seconds:g} seconds allowed"
                ) from died
            raise
        except BadPicture:
            self._give_back(decoder)
            raise
        self._give_back(decoder)
        return pixels

    def _take(self) -> _Decoder:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._new()

    def _new(self) -> _Decoder:
        try:
            decoder = _Decoder(self._limits)
        except OSError as error:
            self.failure = f"no decoder process can be started: {error}"
            logger.error(self.failure)
            raise ServiceError("the picture could not be decoded, as no decoder process can be started") from error
        self.failure = None
        return decoder

    def _give_back(self, decoder: _Decoder) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(decoder)
                return
        decoder.close()

    def close(self) -> None:
        """End the processes; those in use end when they are given back."""
        with self._lock:
            self._closed, idle = True, self._idle
            self._idle = []
        for decoder in idle:
            decoder.close()
