"""Decodes pictures in processes, as a thread that hangs or crashes in a decoder cannot be ended without all the others.

Measured, for pictures within the default limits: a JPEG of 0.33 MB whose 2,000 scans cover 50 megapixels took 68 s, one
of 20 MiB would take hours, and EXIF data in many parts takes minutes; every other format's worst file took up to 6 s of
CPU time, a BMP of 28 KB among them. docs/reliability.md has the table.
"""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import cast

import numpy as np

from service import decoder_process
from service.artifact import Preprocessing
from service.decoder_process import ANSWER, PIXELS, QUESTION, DecodeLimits
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

CHILDREN = threading.Lock()
"""Whoever starts or joins a process asks how all others have ended, and of two that ask at once one learns nothing."""

CANNOT_START = (OSError, EOFError)
"""What starting a process raises; the latter if the one that forks has just died."""

RETRY_SECONDS = 1.0
"""Between two tries of starting a process."""

END_SECONDS = 5
"""How long a process gets to end once its connection is closed."""


class _Died(Exception):
    """A decoder process has ended with a picture in work."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode


class _Decoder(asyncio.Protocol):
    """One process, and the connection to it. Has one picture at a time."""

    def __init__(self, process: BaseProcess, on_end: Callable[["_Decoder"], None]) -> None:
        self.process = process
        self._on_end = on_end
        self._ended = False
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[tuple[int, memoryview]] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # in all but name, where it is uvloop's

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < ANSWER.size:
            return
        kind, length = ANSWER.unpack_from(self._received)
        if len(self._received) == ANSWER.size + length and self._answer is not None and not self._answer.done():
            self._answer.set_result((kind, memoryview(self._received)[ANSWER.size :]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._on_end(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EOFError())

    async def read_pixels(self, data: bytes, preprocessing: Preprocessing) -> Pixels:
        """Raises BadPicture, or _Died. Cancelled, it leaves the process with the picture."""
        if self._ended:
            raise await self._died()
        self._received = bytearray()
        self._answer = asyncio.get_running_loop().create_future()
        text = _as_json(preprocessing)
        self._transport.writelines((QUESTION.pack(len(text), len(data)), text, data))
        try:
            kind, answer = await self._answer
        except EOFError:
            raise await self._died() from None
        if kind == PIXELS:
            size = preprocessing.image_size
            return np.frombuffer(answer, np.uint8).reshape(size, size, 3)
        code, _, message = answer.tobytes().partition(b"\0")
        raise ERRORS[code.decode()](message.decode())

    def close(self) -> None:
        """Ends the process, if it is not stuck in a picture."""
        self._transport.close()

    async def join(self) -> int | None:
        """Wait until the process has ended, or end it. Returns how it ended, as `multiprocessing.Process.exitcode`."""
        return await asyncio.to_thread(_join, self.process)

    async def _died(self) -> "_Died":
        return _Died(await self.join())


def _start(process: BaseProcess) -> None:
    with CHILDREN:
        process.start()


def _join(process: BaseProcess) -> int | None:
    if not wait([process.sentinel], END_SECONDS):
        process.kill()
        wait([process.sentinel])
    with CHILDREN:
        process.join()
        exitcode = process.exitcode
        process.close()
    return exitcode


@lru_cache
def _as_json(preprocessing: Preprocessing) -> bytes:
    return preprocessing.model_dump_json().encode()


class Decoders:
    """Decoder processes, as many as are asked at once. Belongs to the event loop.

    Args:
        limits: of each picture.
        metrics: told of processes that died.
    """

    def __init__(self, limits: DecodeLimits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._idle: list[_Decoder] = []
        self._closed = False
        self._mending: asyncio.Task[None] | None = None
        self.failure: str | None = None
        """Why no process could be started when one was last needed; None once one can."""

    async def start(self, processes: int) -> None:
        """Have so many ready. If they cannot be started, `failure` says why."""
        for _ in range(processes):
            try:
                self._idle.append(await self._started())
            except CANNOT_START as error:
                self._failed(error)
                return

    async def read_pixels(self, data: bytes, preprocessing: Preprocessing) -> Pixels:
        """Decode, resize and crop one encoded picture to uint8 (size, size, 3).

        A process that dies without its alarm may have been ended from outside, so its picture gets a second one.

        Raises:
            BadPicture: as from `service.pixels.read_pixels`, or PictureTooSlow, or it crashed two processes.
            ServiceError: no process can be started.
        """
        try:
            return await self._read_pixels(self._idle.pop() if self._idle else await self._new(), data, preprocessing)
        except _Died as died:
            logger.warning("a decoder process ended with %s; its picture gets another one", died.exitcode)
        try:  # a new one, as those that wait may have ended with the first
            return await self._read_pixels(await self._new(), data, preprocessing)
        except _Died as died:
            raise BrokenPicture("the decoder crashed on the picture") from died

    async def _read_pixels(self, decoder: _Decoder, data: bytes, preprocessing: Preprocessing) -> Pixels:
        try:
            pixels = await decoder.read_pixels(data, preprocessing)
        except _Died as died:
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
        except BaseException:
            decoder.close()  # whatever it still answers is nobody's
            raise
        self._give_back(decoder)
        return pixels

    async def _new(self) -> _Decoder:
        try:
            decoder = await self._started()
        except CANNOT_START as error:
            self._failed(error)
            raise ServiceError("the picture could not be decoded, as no decoder process can be started") from error
        self.failure = None
        return decoder

    def _failed(self, error: Exception) -> None:
        self.failure = f"no decoder process can be started: {error or type(error).__name__}"
        logger.error(self.failure)
        if self._mending is None or self._mending.done():
            self._mending = asyncio.get_running_loop().create_task(self._mend(), name="mend decoders")

    async def _mend(self) -> None:
        """Until a process can be started: a service that is not ready is sent no picture that would try it."""
        while self.failure is not None:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                decoder = await self._started()
            except Exception as error:  # whatever it is, the next try may go better
                logger.debug("still no decoder process can be started: %s", error)
            else:
                self.failure = None
                self._give_back(decoder)
                logger.warning("decoder processes can be started again")

    async def _started(self) -> _Decoder:
        ours, theirs = socket.socketpair()
        process = FORK.Process(target=decoder_process.work, args=(theirs, self._limits), name="decoder", daemon=True)
        try:
            with theirs:
                await asyncio.to_thread(_start, process)
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            _, decoder = await loop.create_connection(lambda: _Decoder(process, self._forget), sock=ours)
        except BaseException:
            ours.close()
            raise
        return decoder

    def _give_back(self, decoder: _Decoder) -> None:
        if self._closed:
            decoder.close()
        else:
            self._idle.append(decoder)

    def _forget(self, decoder: _Decoder) -> None:
        if decoder in self._idle:
            self._idle.remove(decoder)

    async def close(self) -> None:
        """End the processes; those in use end when they are given back."""
        self._closed, idle = True, self._idle
        self._idle = []
        if self._mending is not None:
            self._mending.cancel()
        for decoder in idle:
            decoder.close()
        await asyncio.gather(*(decoder.join() for decoder in idle))
