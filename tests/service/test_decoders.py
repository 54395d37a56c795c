"""Decoder processes: same pixels, and limits that hold whatever a decoder does."""

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service import decoder_process, decoders
from service.decoder_process import DecodeLimits
from service.decoders import Decoders
from service.decoding import MOST_SCANS, START_OF_SCAN
from service.errors import (
    BadPicture,
    BrokenPicture,
    PictureTooLarge,
    PictureTooSlow,
    ServiceError,
    StartupError,
    UnsupportedPicture,
)
from service.metrics import Metrics
from service.pixels import read_pixels
from tests.service import colours
from tests.service.live import PATIENCE, await_ready, await_true, classify, listening_service, metric, until
from tests.service.pictures import encode, noise, png
from tests.service.processes import children

PREPROCESSING = colours.artifact().preprocessing

LIMITS = DecodeLimits(max_pixels=50_000_000, max_bytes=1 << 20, seconds=PATIENCE, exact=True)


@asynccontextmanager
async def decoders_of(limits: DecodeLimits = LIMITS) -> AsyncIterator[tuple[Decoders, Metrics]]:
    metrics = Metrics()
    decoders = Decoders(limits, metrics)
    try:
        async with asyncio.timeout(PATIENCE):
            yield decoders, metrics
    finally:
        await decoders.close()


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def deaths(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("stripmlp_decoder_deaths_total", {"reason": reason})


def many_scans(scans: int, side: int = 7000) -> bytes:
    """A small JPEG of 49 megapixels whose last scan is repeated; each costs a pass over the whole picture."""
    flat = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = flat.rindex(START_OF_SCAN)
    return flat[:-2] + flat[last:-2] * scans + flat[-2:]


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Takes seconds to decode."""
    return many_scans(MOST_SCANS - 10)


def of_process(decoders: Decoders) -> int:
    """The one idle process."""
    (decoder,) = decoders._idle
    assert decoder.process.pid is not None
    return decoder.process.pid


def about(decoders: Decoders, what: str) -> str:
    """What the kernel says of the one idle process."""
    return Path(f"/proc/{of_process(decoders)}/{what}").read_text()


def exists(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


def busy(pid: int) -> bool:
    """Whether it has used up time since it started: 0.2 seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) > 20


@pytest.mark.parametrize("exact", [True, False])
def test_pixels_are_those_of_the_same_decoding_here(*, exact: bool) -> None:
    limits = DecodeLimits(max_pixels=1 << 20, max_bytes=1 << 20, seconds=PATIENCE, exact=exact)

    async def scenario() -> None:
        async with decoders_of(limits) as (decoders, _):
            for size in (4, 9), (300, 400):
                data = encode(noise(*size))

                pixels = await decoders.read_pixels(data, PREPROCESSING)

                np.testing.assert_array_equal(
                    pixels, read_pixels(data, PREPROCESSING, max_pixels=1 << 20, exact=exact), strict=True
                )

    in_loop(scenario)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UnsupportedPicture),
        (b"no picture", UnsupportedPicture),
        (png("red")[:60], BrokenPicture),
        (encode(Image.new("1", (10_000, 6_000))), PictureTooLarge),
        (many_scans(MOST_SCANS + 1, 16), BrokenPicture),
    ],
)
def test_errors_are_those_of_the_same_decoding_here(data: bytes, error: type[BadPicture]) -> None:
    with pytest.raises(error) as here:
        read_pixels(data, PREPROCESSING, max_pixels=LIMITS.max_pixels, exact=True)

    async def scenario() -> None:
        async with decoders_of() as (decoders, metrics):
            with pytest.raises(error) as there:
                await decoders.read_pixels(data, PREPROCESSING)

            pid = of_process(decoders)
            assert str(there.value).split(" <")[0] == str(here.value).split(" <")[0]
            assert (await decoders.read_pixels(png("red"), PREPROCESSING)).any()
            assert of_process(decoders) == pid
            assert deaths(metrics, "crash") is None

    in_loop(scenario)


def huge_frame(width: int, height: int) -> bytes:
    """A GIF of 10x10 pixels whose one frame is larger, and is to be cleared, for which Pillow makes room on opening."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
    return screen + b"!\xf9\4\x08\0\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x4c\1\0;"


def test_a_frame_that_is_too_large_sets_no_memory_aside() -> None:
    """Pillow would neither refuse these 79 megapixels nor warn of them."""

    async def scenario() -> None:
        async with decoders_of() as (decoders, _):
            with pytest.raises(PictureTooLarge, match="or a frame of it"):
                await decoders.read_pixels(huge_frame(8_900, 8_900), PREPROCESSING)

            status = about(decoders, "status")
            assert int(status.partition("VmHWM:")[2].split()[0]) < 80_000

    in_loop(scenario)


def test_a_decoder_that_takes_too_long_is_ended(slow: bytes) -> None:
    limits = DecodeLimits(max_pixels=50_000_000, max_bytes=1 << 20, seconds=0.3, exact=True)

    async def scenario() -> None:
        async with decoders_of(limits) as (decoders, metrics):
            await decoders.start(1)
            pid = of_process(decoders)

            with pytest.raises(PictureTooSlow, match=r"longer than the 0\.3 seconds"):
                await decoders.read_pixels(slow, PREPROCESSING)

            assert not exists(pid)
            assert deaths(metrics, "timeout") == 1
            assert (await decoders.read_pixels(png("red"), PREPROCESSING)).any()

    in_loop(scenario)


async def kill_when_busy(known: set[int]) -> int:
    """End the decoder process that is at work and none of these."""
    await until(lambda: any(busy(pid) for pid in grandchildren() - known))
    found = next(pid for pid in grandchildren() - known if busy(pid))
    os.kill(found, signal.SIGKILL)
    return found


def grandchildren() -> set[int]:
    """Decoder processes: their parent is the one that forks."""
    return {each for child in children(os.getpid()) for each in children(child)}


def test_a_picture_whose_process_was_ended_gets_another(slow: bytes) -> None:
    async def scenario() -> None:
        async with decoders_of() as (decoders, metrics):
            others = grandchildren()
            picture = asyncio.create_task(decoders.read_pixels(slow, PREPROCESSING))
            await kill_when_busy(others)

            assert (await picture).shape == (colours.SIZE, colours.SIZE, 3)
            assert deaths(metrics, "crash") == 1

    in_loop(scenario)


def test_a_picture_that_ends_two_processes_is_broken(slow: bytes) -> None:
    async def scenario() -> None:
        async with decoders_of() as (decoders, metrics):
            others = grandchildren()
            picture = asyncio.create_task(decoders.read_pixels(slow, PREPROCESSING))
            others.add(await kill_when_busy(others))
            await kill_when_busy(others)

            with pytest.raises(BrokenPicture, match="crashed on the picture"):
                await picture
            assert deaths(metrics, "crash") == 2

    in_loop(scenario)


def test_processes_that_died_idle_cost_no_picture() -> None:
    async def scenario() -> None:
        async with decoders_of() as (decoders, metrics):
            others = grandchildren()
            await decoders.start(3)
            died = grandchildren() - others
            for pid in died:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not decoders._idle)

            assert (await decoders.read_pixels(png("red"), PREPROCESSING)).any()
            assert of_process(decoders) not in died
            assert deaths(metrics, "crash") is None

    in_loop(scenario)


def test_the_kernel_bounds_memory_and_files() -> None:
    async def scenario() -> None:
        async with decoders_of() as (decoders, _):
            await decoders.start(1)
            await decoders.read_pixels(png("red"), PREPROCESSING)
            rows = about(decoders, "limits").splitlines()
            limits = {row[:26].strip(): row[26:].split()[0] for row in rows}

            assert LIMITS.memory == 20 * 50_000_000 + 2 * (1 << 20) + (64 << 20)
            assert LIMITS.memory < int(limits["Max address space"]) < LIMITS.memory + (1 << 31)
            assert limits["Max core file size"] == "0"

    in_loop(scenario)


@dataclass(frozen=True)
class Tight(DecodeLimits):
    """Less memory than a picture may need."""

    @property
    def memory(self) -> int:
        return 16 << 20


def test_a_picture_that_takes_more_memory_than_the_kernel_gives_is_too_large() -> None:
    large = encode(Image.new("L", (7000, 7000)))
    limits = Tight(max_pixels=50_000_000, max_bytes=1 << 20, seconds=PATIENCE, exact=True)

    async def scenario() -> None:
        async with decoders_of(limits) as (decoders, metrics):
            await decoders.start(1)
            pid = of_process(decoders)
            with pytest.raises(PictureTooLarge, match="more memory to decode than there is"):
                await decoders.read_pixels(large, PREPROCESSING)

            assert (await decoders.read_pixels(png("red"), PREPROCESSING)).any()
            assert of_process(decoders) == pid
            assert deaths(metrics, "crash") is None

    in_loop(scenario)


def test_a_picture_that_nobody_waits_for_any_more_takes_its_process_along(slow: bytes) -> None:
    """What it would still answer is no other picture's."""

    async def scenario() -> None:
        async with decoders_of() as (decoders, metrics):
            await decoders.start(1)
            pid = of_process(decoders)
            picture = asyncio.create_task(decoders.read_pixels(slow, PREPROCESSING))
            await until(lambda: busy(pid))
            picture.cancel()
            await asyncio.wait([picture])

            assert (await decoders.read_pixels(png("red"), PREPROCESSING)).any()
            assert of_process(decoders) != pid
            assert deaths(metrics, "crash") is None

    in_loop(scenario)


@pytest.mark.parametrize("asked", [True, False])
def test_a_process_whose_service_is_gone_ends_quietly(*, asked: bool) -> None:
    text, data = PREPROCESSING.model_dump_json().encode(), png("red")
    ours, theirs = socket.socketpair()
    with theirs:
        process = decoders.FORK.Process(target=decoder_process.work, args=(theirs, LIMITS), daemon=True)
        process.start()
    with ours:
        if asked:
            ours.sendall(decoder_process.QUESTION.pack(len(text), len(data)) + text + data)
            ours.shutdown(socket.SHUT_RD)
    process.join(PATIENCE)

    assert process.exitcode == 0


def test_pictures_at_once_each_get_their_own_pixels() -> None:
    data = [encode(noise(20 + number, 30)) for number in range(24)]

    async def scenario() -> None:
        async with decoders_of() as (decoders, _):
            found = await asyncio.gather(*(decoders.read_pixels(each, PREPROCESSING) for each in data))
            for each, pixels in zip(data, found, strict=True):
                np.testing.assert_array_equal(
                    pixels, read_pixels(each, PREPROCESSING, max_pixels=1 << 20, exact=True), strict=True
                )

    in_loop(scenario)


def test_processes_end_with_their_decoders() -> None:
    async def scenario() -> None:
        async with decoders_of() as (decoders, _):
            await decoders.start(2)
            pids = [decoder.process.pid for decoder in decoders._idle]
        assert len(pids) == 2
        assert not any(exists(pid) for pid in pids)

    in_loop(scenario)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """None can be started, until this is called."""
    start = decoders.FORK.Process.start
    refused = True

    def refuse(process: BaseProcess) -> None:
        if refused:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(process)

    def allow() -> None:
        nonlocal refused
        refused = False

    monkeypatch.setattr(decoders, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(decoders.FORK.Process, "start", refuse)
    return allow


def test_a_service_without_decoders_says_so_and_recovers(colour_models: Path, no_processes: Callable[[], None]) -> None:
    """By itself, as nobody sends pictures to what is not ready."""
    failures: list[StartupError] = []
    with listening_service(colour_models, failures.append) as client:
        no_model_yet = "models are being loaded"
        await_true(lambda: no_model_yet not in client.get("/readyz").text)
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "no decoder process can be started: [Errno 11]" in ready.json()["detail"]
        answer = classify(client, png("red"))
        assert answer.status_code == 500
        assert answer.json()["detail"].endswith("no decoder process can be started")

        no_processes()
        await_ready(client, failures)
        assert classify(client, png("red")).status_code == 200
        assert metric(client, "stripmlp_images_total", outcome="failed") == 1


def test_what_forks_may_die_while_a_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: BaseProcess) -> None:
        raise EOFError("unexpected EOF")

    async def scenario() -> None:
        async with decoders_of() as (made, _):
            with monkeypatch.context() as patch:
                patch.setattr(decoders.FORK.Process, "start", die)
                with pytest.raises(ServiceError, match="no decoder process can be started"):
                    await made.read_pixels(png("red"), PREPROCESSING)
                assert made.failure == "no decoder process can be started: unexpected EOF"
            assert (await made.read_pixels(png("red"), PREPROCESSING)).any()
            assert made.failure is None

    in_loop(scenario)


def test_decoders_that_are_closed_try_no_more(no_processes: Callable[[], None]) -> None:
    async def scenario() -> None:
        async with decoders_of() as (made, _):
            await made.start(2)
            mending = made._mending
            assert mending is not None
        no_processes()
        await asyncio.wait([mending])
        assert mending.cancelled()
        assert made._idle == []

    in_loop(scenario)
