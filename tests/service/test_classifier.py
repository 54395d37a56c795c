"""From encoded pictures to ranked classes or errors, one result for each."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.answers import Prediction
from service.artifact import Preprocessing
from service.batching import BatchQueue
from service.body import Picture
from service.classifier import Classifier, Result, rank
from service.errors import BrokenPicture, InferenceFailed, NotReady, Overloaded, PictureTooLarge, UnsupportedPicture
from service.metrics import Metrics
from service.models import ServedModel
from service.preprocessing import Pixels
from service.repository import ModelFile
from service.session import Scores, Session
from service.settings import Settings
from tests.service import colours
from tests.service.live import PATIENCE
from tests.service.pictures import encode, noise, png


class Bench:
    """One tiny model, served to a classifier without HTTP."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(models=folder, **settings)
        self.metrics = Metrics()
        self._path = colours.save_served(folder)
        self.session = Session.open(self._path, device="cpu", threads=1)
        self.run: Callable[[Pixels], Scores] = self.session.run
        self.in_work_after = -1

    def classify(self, pictures: Sequence[bytes], top_k: int = 1, already_in_work: int = 0) -> list[Result]:
        async def scenario() -> list[Result]:
            queue = BatchQueue(self.run, limit=4, name="colours", metrics=self.metrics)
            with Classifier(self.settings, self.metrics) as classifier:
                async with queue:
                    model = ServedModel(
                        ModelFile("colours", 1, self._path), self.session, queue, self.settings.max_queue
                    )
                    model.in_work = already_in_work
                    try:
                        return await classifier.classify(model, [Picture(None, data) for data in pictures], top_k)
                    finally:
                        self.in_work_after = model.in_work

        return asyncio.run(scenario())

    def counted(self, outcome: str) -> float | None:
        labels = {"model": "colours", "version": "1", "outcome": outcome}
        return self.metrics.registry.get_sample_value("stripmlp_images_total", labels)


def labels(results: list[Result]) -> list[str]:
    return [result[0].label if isinstance(result, list) else result.code for result in results]


def test_every_picture_gets_its_result_in_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_pixels=2000, max_image_mb=1)
    pictures = [
        png("red"),
        b"no picture",
        png("blue"),
        encode(noise(40, 40), "JPEG")[:900],
        encode(noise(100, 100)),
        png("green"),
        bytes(1024 * 1024 + 1),
    ]

    results = bench.classify(pictures)

    assert labels(results) == [
        "red",
        "unsupported_picture",
        "blue",
        "broken_picture",
        "picture_too_large",
        "green",
        "picture_too_large",
    ]
    assert [type(result) for result in results if not isinstance(result, list)] == [
        UnsupportedPicture,
        BrokenPicture,
        PictureTooLarge,
        PictureTooLarge,
    ]
    assert (bench.counted("ok"), bench.counted("invalid")) == (3, 4)
    assert bench.in_work_after == 0


def test_probabilities_are_the_models(tmp_path: Path) -> None:
    (result,) = Bench(tmp_path).classify([png("#ff8000")], top_k=3)

    logits = np.array([255, 128, 0]) / colours.LEVEL
    expected = np.exp(logits) / np.exp(logits).sum()
    assert isinstance(result, list)
    assert [each.label for each in result] == ["red", "green", "blue"]
    assert [each.class_id for each in result] == [0, 1, 2]
    assert [each.probability for each in result] == pytest.approx(expected, rel=1e-5)


def test_the_largest_encoded_picture_is_accepted(tmp_path: Path) -> None:
    padded = png("red").ljust(1 << 20, b"\0")

    assert labels(Bench(tmp_path, max_image_mb=1).classify([padded, padded + b"\0"])) == ["red", "picture_too_large"]


def test_a_request_without_room_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, max_queue=8, max_images=8)
    prepared: list[Picture] = []

    def note(_: Classifier, picture: Picture, preprocessing: Preprocessing) -> tuple[Pixels, float]:
        prepared.append(picture)
        return np.zeros((preprocessing.image_size, preprocessing.image_size, 3), np.uint8), 0.0

    monkeypatch.setattr(Classifier, "_prepare", note)

    with pytest.raises(Overloaded):
        bench.classify([png("red")] * 3, already_in_work=6)
    assert (bench.in_work_after, prepared) == (6, [])
    assert (bench.counted("refused"), bench.counted("ok")) == (3, None)

    bench.classify([png("red")] * 2, already_in_work=6)
    assert (bench.in_work_after, len(prepared)) == (6, 2)


def test_a_failing_session_is_told_as_each_pictures_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path)

    def fail(_: Pixels) -> Scores:
        raise RuntimeError("out of memory")

    bench.run = fail
    results = bench.classify([png("red"), b"no picture"])

    assert [type(result) for result in results] == [InferenceFailed, UnsupportedPicture]
    assert "out of memory" not in str(results[0])
    assert "out of memory" in caplog.text
    assert (bench.counted("failed"), bench.counted("invalid"), bench.in_work_after) == (1, 1, 0)


def test_what_nobody_foresaw_reaches_no_other_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    prepare = Classifier._prepare

    def fail_on_blue(self: Classifier, picture: Picture, preprocessing: Preprocessing) -> tuple[Pixels, float]:
        if picture.data == png("blue"):
            raise MemoryError("the secret")
        return prepare(self, picture, preprocessing)

    monkeypatch.setattr(Classifier, "_prepare", fail_on_blue)
    results = bench.classify([png("red"), png("blue"), png("green")])

    assert labels(results) == ["red", "internal_error", "green"]
    assert "the secret" not in str(results[1])
    assert "the secret" in caplog.text
    assert (bench.counted("ok"), bench.counted("failed"), bench.in_work_after) == (2, 1, 0)


def test_a_cancelled_request_gives_its_room_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    entered, release = threading.Event(), threading.Event()

    def held(pixels: Pixels) -> Scores:
        entered.set()
        assert release.wait(PATIENCE)
        return bench.session.run(pixels)

    async def scenario() -> int:
        queue = BatchQueue(held, limit=4, name="colours", metrics=bench.metrics)
        with Classifier(bench.settings, bench.metrics) as classifier:
            async with queue:
                model = ServedModel(ModelFile("colours", 1, tmp_path), bench.session, queue, 8)
                pictures = [Picture(None, png("red"))] * 3
                request = asyncio.create_task(classifier.classify(model, pictures, 1))
                assert await asyncio.to_thread(entered.wait, PATIENCE)
                request.cancel()
                await asyncio.wait([request])
                release.set()
                return model.in_work

    assert asyncio.run(scenario()) == 0


def test_a_queue_that_ended_is_told_as_each_pictures_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> list[Result]:
        queue = BatchQueue(bench.run, limit=4, name="colours", metrics=bench.metrics)
        model = ServedModel(ModelFile("colours", 1, tmp_path), bench.session, queue, 8)
        with Classifier(bench.settings, bench.metrics) as classifier:
            return await classifier.classify(model, [Picture(None, png("red"))], 1)

    assert [type(result) for result in asyncio.run(scenario())] == [NotReady]
    assert bench.counted("failed") == 1


probabilities = st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5]) | st.floats(0, 1, width=32), min_size=1, max_size=30)


@given(probabilities, st.integers(1, 40))
@settings(deadline=None, max_examples=100)
def test_ranking_is_by_probability_then_number(values: list[float], top_k: int) -> None:
    scores = Scores(np.zeros(len(values), np.float32), np.array(values, np.float32))
    names = [f"class {number}" for number in range(len(values))]

    ranked = rank(scores, names, top_k)

    assert ranked == [
        Prediction(label=names[number], class_id=number, probability=value)
        for number, value in sorted(enumerate(values), key=lambda each: (-each[1], each[0]))[:top_k]
    ]
