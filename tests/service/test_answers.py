"""The answer's results: the most probable classes, or why there are none."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from service.answers import (
    ClassifiedPicture,
    ClassifyAnswer,
    ModelName,
    PictureError,
    Prediction,
    RejectedPicture,
    classify_answer,
    rank,
)
from service.batching import BatchQueue
from service.body import Picture
from service.entrance import Classified
from service.errors import InferenceFailed, UnsupportedPicture
from service.metrics import Metrics
from service.models import ServedModel
from service.repository import ModelFile, Stamp
from service.scheduling import Scheduler
from service.session import Scores
from service.work import Result
from tests.service import colours
from tests.service.stand_ins import roomy

probabilities = st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5]) | st.floats(0, 1, width=32), min_size=1, max_size=30)


def scores_of(values: list[float]) -> Scores:
    """The logits must not matter."""
    return Scores(np.arange(len(values), dtype=np.float32), np.array(values, np.float32))


@given(probabilities, st.integers(1, 40))
@settings(max_examples=100)
def test_ranking_is_by_probability_then_number(values: list[float], top_k: int) -> None:
    names = [f"class {number}" for number in range(len(values))]

    ranked = rank(scores_of(values), names, top_k)

    assert ranked == [
        Prediction(label=names[number], class_id=number, probability=value)
        for number, value in sorted(enumerate(values), key=lambda each: (-each[1], each[0]))[:top_k]
    ]


def model_of(name: str, version: int) -> ServedModel:
    async def build() -> ServedModel:
        scheduler = Scheduler(1, 1)
        queue = BatchQueue(limit=4, patience=0)
        model = ServedModel(
            file=ModelFile(name, version, Path("model.onnx"), Stamp(1, 2, 3, (4, 5, 6))),
            artifact=colours.artifact(),
            curve=[],
            queue=queue,
            runners=[],
            scheduler=scheduler,
            admission=roomy(),
            metrics=Metrics().of_model(name, version, []),
        )
        await scheduler.close()
        return model

    return asyncio.run(build())


def test_an_answer_has_a_result_for_every_picture_in_order() -> None:
    pictures = [Picture("a.png", b""), Picture(None, b""), Picture("a.png", b""), Picture("größe.png", b"")]
    results: list[Result] = [
        scores_of([0.25, 0.5, 0.125]),
        UnsupportedPicture("not a picture"),
        scores_of([0.5, 0.25, 0.125]),
        InferenceFailed("model m failed on this picture"),
    ]

    answer = classify_answer(Classified(model_of("colours", 3), pictures, results), 2)

    red = Prediction(label="red", class_id=0, probability=0.25)
    green = Prediction(label="green", class_id=1, probability=0.5)
    assert answer.model == ModelName(name="colours", version=3)
    assert answer.results == [
        ClassifiedPicture(index=0, filename="a.png", predictions=[green, red]),
        RejectedPicture(
            index=1, filename=None, error=PictureError(code="unsupported_picture", message="not a picture")
        ),
        ClassifiedPicture(
            index=2,
            filename="a.png",
            predictions=[
                replace(red, probability=0.5),
                replace(green, probability=0.25),
            ],
        ),
        RejectedPicture(
            index=3,
            filename="größe.png",
            error=PictureError(code="inference_failed", message="model m failed on this picture"),
        ),
    ]


def test_what_is_sent_reads_back_as_the_answer() -> None:
    pictures = [Picture("größe.png", b""), Picture(None, b"")]
    results: list[Result] = [scores_of([0.1, 0.7, 0.2]), UnsupportedPicture("not a “picture”")]

    answer = classify_answer(Classified(model_of("colours", 3), pictures, results), 2)

    assert TypeAdapter(ClassifyAnswer).validate_json(answer.json) == answer
    assert json.loads(answer.json)["results"][0]["predictions"][0]["probability"] == float(np.float32(0.7))


def test_a_result_too_few_is_no_answer() -> None:
    with pytest.raises(ValueError, match="shorter"):
        classify_answer(Classified(model_of("colours", 1), [Picture(None, b"")] * 2, [scores_of([1.0])]), 1)
