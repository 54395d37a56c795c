"""From encoded pictures to scores or errors: one result for each, and nothing done for nobody."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from starlette.types import Message, Receive

from service.admission import Admission, ServiceRate
from service.artifact import Preprocessing
from service.batching import BatchQueue
from service.body import Picture
from service.classifier import Classifier
from service.deadline import Deadline
from service.decoders import Decoders
from service.errors import (
    BrokenPicture,
    ClientGone,
    DeadlineExceeded,
    InferenceFailed,
    NotReady,
    Overloaded,
    PictureTooLarge,
    ServiceError,
    UnsupportedPicture,
)
from service.metrics import Metrics
from service.models import ServedModel
from service.pixels import read_pixels
from service.preprocessing import Pixels
from service.repository import ModelFile, Stamp
from service.running import Runner
from service.scheduling import Scheduler
from service.session import Scores, Session
from service.settings import Settings
from service.work import Result
from tests.service import colours
from tests.service.live import PATIENCE, until
from tests.service.pictures import encode, noise, png
from tests.service.stand_ins import Run, no_reopening, record, session

NAMES = ["red", "green", "blue"]


async def stay() -> Message:
    """A client that waits for its answer."""
    await asyncio.Event().wait()
    raise AssertionError("nothing sets that event")


class Bench:
    """One tiny model, served to a classifier without HTTP. Needs a running event loop.

    Args:
        folder: where the model's file is made.
        run: in place of the model.
        slots: for decodes and runs.
        per_second: the rate that admission reckons with.
        in_work: pictures of other requests.
        limits: settings.
    """

    def __init__(
        self,
        folder: Path,
        run: Run | None = None,
        *,
        slots: int = 2,
        per_second: float = 1e6,
        in_work: int = 0,
        **limits: Any,
    ) -> None:
        self.settings = Settings(models=folder, **limits)
        self.metrics = Metrics()
        path = colours.save_served(folder)
        self.session = Session.open(path, device="cpu", threads=1)
        self.scheduler = Scheduler(slots, slots)
        queue = BatchQueue(limit=4, patience=0.01)
        model_metrics = self.metrics.of_model("colours", 1, self.session.artifact.labels)
        self.runner = Runner(
            queue,
            session(run) if run else self.session,
            capacity=slots,
            threads=1,
            sizes=None,
            reopen=no_reopening,
            name="colours",
            metrics=model_metrics,
        )
        self.scheduler.attach(self.runner, on_cores=True)
        self.admission = Admission("colours", self.settings.max_queue, ServiceRate(per_second, slots), margin=0)
        if in_work:
            self.admission.admit(in_work, PATIENCE)
        self.model = ServedModel(
            file=ModelFile("colours", 1, path, Stamp.of(path)),
            artifact=self.session.artifact,
            curve=[],
            queue=queue,
            runners=[self.runner],
            scheduler=self.scheduler,
            admission=self.admission,
            metrics=model_metrics,
        )
        self.decoders = Decoders(self.settings.decode_limits, self.metrics)
        self.classifier = Classifier(self.settings, self.scheduler, self.decoders)

    async def classify(
        self, pictures: Sequence[bytes], *, seconds: float = PATIENCE, receive: Receive = stay
    ) -> list[Result]:
        deadline = Deadline(asyncio.get_running_loop().time() + seconds, round(seconds * 1000))
        request = record()
        request.model = self.model
        encoded = [Picture(None, data) for data in pictures]
        return await self.classifier.classify(request, self.model, encoded, deadline, receive)

    def counted(self) -> dict[str, float]:
        """Pictures by outcome, those outcomes left out that none had."""
        return {
            sample.labels["outcome"]: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "stripmlp_images_total" and sample.value
        }


@asynccontextmanager
async def bench_of(folder: Path, run: Run | None = None, **options: Any) -> AsyncIterator[Bench]:
    bench = Bench(folder, run, **options)
    try:
        async with asyncio.timeout(PATIENCE):
            yield bench
    finally:
        await bench.scheduler.close()
        await bench.decoders.close()


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def told(results: Sequence[Result]) -> list[str]:
    """The most probable class of each picture, the error's code for the others."""
    return [NAMES[int(each.logits.argmax())] if isinstance(each, Scores) else each.code for each in results]


def test_every_picture_gets_its_result_in_order(tmp_path: Path) -> None:
    pictures = [
        png("red"),
        b"no picture",
        png("blue"),
        encode(noise(40, 40), "JPEG")[:900],
        encode(noise(100, 100)),
        png("green"),
        bytes(1024 * 1024 + 1),
    ]

    async def scenario() -> None:
        async with bench_of(tmp_path, max_pixels=2000, max_image_mb=1) as bench:
            results = await bench.classify(pictures)

            assert told(results) == [
                "red",
                "unsupported_picture",
                "blue",
                "broken_picture",
                "picture_too_large",
                "green",
                "picture_too_large",
            ]
            assert [type(result) for result in results if not isinstance(result, Scores)] == [
                UnsupportedPicture,
                BrokenPicture,
                PictureTooLarge,
                PictureTooLarge,
            ]
            assert bench.counted() == {"ok": 3, "invalid": 4}
            assert bench.admission.in_work == 0

    in_loop(scenario)


plain = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))


@given(st.lists(st.lists(plain, min_size=1, max_size=6), min_size=1, max_size=8))
@hypothesis_settings(max_examples=15)
def test_requests_at_once_each_get_their_own_answers(
    tmp_path_factory: pytest.TempPathFactory, requests: list[list[tuple[int, int, int]]]
) -> None:
    async def scenario() -> None:
        async with bench_of(tmp_path_factory.mktemp("models")) as bench:
            answers = await asyncio.gather(
                *(
                    bench.classify([encode(Image.new("RGB", (32, 32), colour), "BMP") for colour in request])
                    for request in requests
                )
            )
            for request, results in zip(requests, answers, strict=True):
                assert len(results) == len(request)
                for colour, result in zip(request, results, strict=True):
                    assert isinstance(result, Scores)
                    np.testing.assert_allclose(result.logits * colours.LEVEL, colour, atol=0.01)
            assert bench.admission.in_work == 0
            assert bench.counted() == {"ok": sum(len(request) for request in requests)}

    in_loop(scenario)


def test_the_largest_encoded_picture_is_accepted(tmp_path: Path) -> None:
    padded = png("red").ljust(1 << 20, b"\0")

    async def scenario() -> None:
        async with bench_of(tmp_path, max_image_mb=1) as bench:
            assert told(await bench.classify([padded, padded + b"\0"])) == ["red", "picture_too_large"]

    in_loop(scenario)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pictures that were decoded so far."""
    decoded: list[bytes] = []

    read = Decoders.read_pixels

    async def note(decoders: Decoders, data: bytes, preprocessing: Preprocessing) -> Pixels:
        decoded.append(data)
        return await read(decoders, data, preprocessing)

    monkeypatch.setattr(Decoders, "read_pixels", note)
    return decoded


@pytest.mark.parametrize("exact", [True, False])
def test_pictures_are_decoded_as_the_setting_says(tmp_path: Path, *, exact: bool) -> None:
    data, seen = encode(noise(colours.SIZE * 8, colours.SIZE * 8)), []
    wanted = colours.artifact().preprocessing
    by_way = [read_pixels(data, wanted, max_pixels=1 << 20, exact=way) for way in (True, False)]
    assert (by_way[0] != by_way[1]).any()

    def note(pixels: Pixels) -> Scores:
        seen.append(pixels[0])
        return Scores(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))

    async def scenario() -> None:
        async with bench_of(tmp_path, note, exact_decode=exact) as bench:
            await bench.classify([data])

    in_loop(scenario)
    np.testing.assert_array_equal(seen[0], by_way[0 if exact else 1])


def test_a_request_without_room_is_refused_before_decoding(tmp_path: Path, decoded: list[bytes]) -> None:
    async def scenario() -> None:
        async with bench_of(tmp_path, max_queue=8, max_images=8, in_work=6) as bench:
            with pytest.raises(Overloaded, match="has 6 pictures in work, 3 more would pass the limit of 8"):
                await bench.classify([png("red")] * 3)
            assert (bench.admission.in_work, decoded) == (6, [])
            assert bench.counted() == {"refused": 3}

            await bench.classify([png("red")] * 2)
            assert (bench.admission.in_work, len(decoded)) == (6, 2)

    in_loop(scenario)


def test_a_request_without_enough_time_is_refused_before_decoding(tmp_path: Path, decoded: list[bytes]) -> None:
    async def scenario() -> None:
        async with bench_of(tmp_path, per_second=1, in_work=20) as bench:
            with pytest.raises(Overloaded, match="with 2 more they take about 22000 ms") as refusal:
                await bench.classify([png("red")] * 2, seconds=10)
            assert refusal.value.retry_after in (12, 13)
            assert (bench.admission.in_work, decoded) == (20, [])
            assert bench.counted() == {"refused": 2}

            assert told(await bench.classify([png("red")] * 2, seconds=30)) == ["red", "red"]

    in_loop(scenario)


def test_a_model_of_which_no_session_works_is_not_asked(tmp_path: Path, decoded: list[bytes]) -> None:
    async def scenario() -> None:
        async with bench_of(tmp_path) as bench:
            bench.runner.broken = True
            with pytest.raises(NotReady, match="model colours version 1 fails and is being opened anew"):
                await bench.classify([png("red")] * 2)
            assert (bench.admission.in_work, decoded) == (0, [])
            assert bench.counted() == {"refused": 2}

    in_loop(scenario)


def test_a_failing_session_is_told_as_each_pictures_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> Scores:
        raise RuntimeError("out of memory")

    async def scenario() -> None:
        async with bench_of(tmp_path, fail) as bench:
            results = await bench.classify([png("red"), b"no picture"])

            assert [type(result) for result in results] == [InferenceFailed, UnsupportedPicture]
            assert "out of memory" not in str(results[0])
            assert bench.counted() == {"failed": 1, "invalid": 1}
            assert bench.admission.in_work == 0

    in_loop(scenario)
    assert "out of memory" in caplog.text


class Fatal(BaseException):
    """Not caught by `except Exception`."""


@pytest.mark.parametrize("error", [MemoryError("the secret"), Fatal("the secret")])
def test_what_nobody_foresaw_reaches_no_other_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    read = Decoders.read_pixels

    async def fail_on_blue(decoders: Decoders, data: bytes, preprocessing: Preprocessing) -> Pixels:
        if data == png("blue"):
            raise error
        return await read(decoders, data, preprocessing)

    monkeypatch.setattr(Decoders, "read_pixels", fail_on_blue)

    async def scenario() -> None:
        async with bench_of(tmp_path) as bench:
            results = await bench.classify([png("red"), png("blue"), png("green")])

            assert told(results) == ["red", "internal_error", "green"]
            assert "the secret" not in str(results[1])
            assert bench.counted() == {"ok": 2, "failed": 1}
            assert bench.admission.in_work == 0

    in_loop(scenario)
    assert "the secret" in caplog.text


class Client:
    """Says what the ASGI channel says."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self._more = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def __call__(self) -> Message:
        for message in self._more:
            return message
        await self.gone.wait()
        return {"type": "http.disconnect"}


class Hold:
    """Takes every slot."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.release = asyncio.Event()
        scheduler.decode([self._hold] * scheduler.slots)

    async def _hold(self) -> None:
        await self.release.wait()


async def all_done(scheduler: Scheduler) -> None:
    """Nothing is decoded, runs, or waits any more."""
    await until(lambda: scheduler.longest_job == 0)


async def in_work(bench: Bench, least: int) -> None:
    """So many pictures were admitted."""
    await until(lambda: bench.admission.in_work >= least)


End = tuple[str, type[BaseException], dict[str, float]]
ENDS: list[End] = [
    ("deadline", DeadlineExceeded, {"expired": 3}),
    ("client", ClientGone, {"cancelled": 3}),
    ("cancelled", asyncio.CancelledError, {"cancelled": 3}),
]


async def ended(bench: Bench, how: str, pictures: Sequence[bytes], reached: threading.Event | None) -> BaseException:
    """How a request ends whose time is over, or whose client leaves, once `reached` is set."""
    client = Client()
    request = asyncio.create_task(
        bench.classify(pictures, seconds=0.02 if how == "deadline" else PATIENCE, receive=client)
    )
    if reached is None:
        await in_work(bench, 1)
    else:
        assert await asyncio.to_thread(reached.wait, PATIENCE)
    if how == "client":
        client.gone.set()
    elif how == "cancelled":
        request.cancel()
    await asyncio.wait([request])
    try:
        request.result()
    except BaseException as error:
        return error
    raise AssertionError("it was answered")


@pytest.mark.parametrize(("how", "error", "counted"), ENDS)
def test_nothing_is_decoded_for_a_request_that_has_ended(
    tmp_path: Path, decoded: list[bytes], how: str, error: type[BaseException], counted: dict[str, float]
) -> None:
    async def scenario() -> None:
        async with bench_of(tmp_path) as bench:
            hold = Hold(bench.scheduler)
            end = await ended(bench, how, [png("red")] * 3, None)

            assert type(end) is error
            assert bench.admission.in_work == 0
            assert bench.counted() == counted
            hold.release.set()
            await all_done(bench.scheduler)
            assert decoded == []
            assert told(await bench.classify([png("blue")])) == ["blue"]
            assert bench.counted() == counted | {"ok": 1}

    in_loop(scenario)


@pytest.mark.parametrize(("how", "error", "counted"), ENDS)
def test_nothing_reaches_the_session_for_a_request_that_has_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    error: type[BaseException],
    counted: dict[str, float],
) -> None:
    """The decoder is held up in a picture while the request ends."""
    begun, release = threading.Event(), asyncio.Event()
    runs: list[int] = []

    read = Decoders.read_pixels

    async def hold(decoders: Decoders, data: bytes, preprocessing: Preprocessing) -> Pixels:
        begun.set()
        await release.wait()
        return await read(decoders, data, preprocessing)

    monkeypatch.setattr(Decoders, "read_pixels", hold)

    async def scenario() -> None:
        async with bench_of(tmp_path, slots=1) as bench:
            run = Session.run

            def note(session: Session, pixels: Any) -> Scores:
                runs.append(len(pixels))
                return run(session, pixels)

            monkeypatch.setattr(Session, "run", note)
            end = await ended(bench, how, [png("red")] * 3, begun)

            assert type(end) is error
            release.set()
            await all_done(bench.scheduler)
            assert told(await bench.classify([png("blue")])) == ["blue"]
            assert runs == [1]
            assert bench.admission.in_work == 0
            assert bench.counted() == counted | {"ok": 1}

    in_loop(scenario)


@pytest.mark.parametrize(("how", "error", "counted"), ENDS)
def test_a_request_that_ends_during_its_run_disturbs_no_other(
    tmp_path: Path, how: str, error: type[BaseException], counted: dict[str, float]
) -> None:
    entered, release = threading.Event(), threading.Event()

    async def scenario() -> None:
        def run(pixels: Any) -> Scores:
            entered.set()
            assert release.wait(PATIENCE)
            return bench.session.run(pixels)

        async with bench_of(tmp_path, run, slots=1) as bench:
            hold = Hold(bench.scheduler)
            other = asyncio.create_task(bench.classify([png("blue")]))
            await in_work(bench, 1)
            ending = asyncio.create_task(ended(bench, how, [png("red")] * 3, entered))
            await in_work(bench, 2)
            hold.release.set()

            assert type(await ending) is error
            release.set()
            assert told(await other) == ["blue"]
            await all_done(bench.scheduler)
            assert bench.admission.in_work == 0
            assert bench.counted() == counted | {"ok": 1}

    in_loop(scenario)


def test_a_deadline_that_has_passed_already_ends_the_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench_of(tmp_path) as bench:
            hold = Hold(bench.scheduler)
            with pytest.raises(DeadlineExceeded):
                await bench.classify([png("red")], seconds=-1)
            hold.release.set()
            assert bench.admission.in_work == 0
            assert bench.counted() == {"expired": 1}

    in_loop(scenario)


def running_timers() -> int:
    loop: Any = asyncio.get_running_loop()
    return sum(not timer.cancelled() for timer in loop._scheduled)


def test_once_answered_nothing_of_the_request_goes_on(tmp_path: Path) -> None:
    """Neither its timer nor the task that looks after its client."""

    async def scenario() -> None:
        async with bench_of(tmp_path) as bench:
            before, timers = asyncio.all_tasks(), running_timers()
            assert told(await bench.classify([png("red")], receive=Client())) == ["red"]
            await asyncio.sleep(0)  # one turn of the event loop, in which a task that was cancelled ends
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == before
            assert running_timers() == timers

    in_loop(scenario)


@given(st.data())
@hypothesis_settings(max_examples=15)
def test_however_requests_end_every_picture_is_counted_once_and_leaves(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["answered", "deadline", "client", "cancelled"]), max_size=12))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=len(kinds), max_size=len(kinds)))

    async def request(bench: Bench, kind: str, size: int) -> list[Result] | BaseException:
        client = Client()
        task = asyncio.create_task(
            bench.classify([png("red")] * size, seconds=0.001 if kind == "deadline" else PATIENCE, receive=client)
        )
        await asyncio.sleep(0)
        if kind == "client":
            client.gone.set()
        elif kind == "cancelled":
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            return asyncio.CancelledError()
        return task.exception() or task.result()

    async def scenario() -> None:
        async with bench_of(tmp_path_factory.mktemp("models")) as bench:
            ends = await asyncio.gather(*(request(bench, kind, size) for kind, size in zip(kinds, sizes, strict=True)))
            expected: dict[str, float] = {}
            for kind, size, end in zip(kinds, sizes, ends, strict=True):
                if isinstance(end, ServiceError):
                    outcome: str = end.outcome
                else:
                    outcome = "cancelled" if isinstance(end, asyncio.CancelledError) else "ok"
                assert outcome == "ok" or kind != "answered"
                expected[outcome] = expected.get(outcome, 0) + size
            await all_done(bench.scheduler)
            assert bench.admission.in_work == 0
            assert bench.counted() == expected

    in_loop(scenario)
