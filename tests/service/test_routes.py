"""The routes over HTTP, with a real Strip-MLP."""

import io
import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from service.session import Session
from tests.service import colours
from tests.service.conftest import Gate, InThread
from tests.service.live import PATIENCE, await_metric, classify, live_service, metric
from tests.service.pictures import encode, noise, png

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def probabilities(response: httpx.Response) -> list[dict[str, float]]:
    assert response.status_code == 200, response.text
    return [
        {each["label"]: each["probability"] for each in result["predictions"]} for result in response.json()["results"]
    ]


def by_onnxruntime(models: Path, pictures: list[bytes]) -> list[dict[str, float]]:
    """The answers, found with nothing of the service."""
    session = onnxruntime.InferenceSession(models / "strip_mlp_nano_cifar10/1/model.onnx")
    answers = []
    for data in pictures:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        width, height = (73 * side // min(picture.size) for side in picture.size)
        left, top = round((width - 64) / 2), round((height - 64) / 2)
        pixels = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 64, top + 64))
        (row,) = session.run(["probabilities"], {"pixels": np.asarray(pixels)[None]})[0]
        answers.append(dict(zip(CIFAR10, row.tolist(), strict=True)))
    return answers


def assert_same(answers: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Batches of another size add up in another order, so the last digits may differ."""
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer == pytest.approx(wanted, abs=1e-5)


def test_answers_are_the_models_in_order_though_batches_are_smaller(
    strip_mlp: httpx.Client, bundled_models: Path
) -> None:
    pictures = [encode(noise(40 + 3 * seed, 100 - 2 * seed, seed=seed)) for seed in range(30)]

    response = classify(strip_mlp, *pictures, top_k=10)

    assert_same(probabilities(response), by_onnxruntime(bundled_models, pictures))
    results = response.json()["results"]
    assert [result["index"] for result in results] == list(range(30))
    assert [result["filename"] for result in results] == [f"{place}.png" for place in range(30)]
    assert response.json()["model"] == {"name": "strip_mlp_nano_cifar10", "version": 1}


def test_predictions_are_the_best_classes_first(strip_mlp: httpx.Client) -> None:
    picture = encode(noise(64, 64))
    everything = strip_mlp.post("/classify", content=picture, params={"top_k": 1000}).json()["results"][0]
    default = strip_mlp.post("/classify", content=picture).json()["results"][0]

    predictions = everything["predictions"]
    values = [each["probability"] for each in predictions]
    assert everything.keys() == {"index", "filename", "predictions"}
    assert (everything["index"], everything["filename"]) == (0, None)
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5)
    assert sorted(each["class_id"] for each in predictions) == list(range(10))
    assert all(CIFAR10[each["class_id"]] == each["label"] for each in predictions)
    assert default["predictions"] == predictions[:5]


def test_a_bad_picture_leaves_the_others_alone(strip_mlp: httpx.Client) -> None:
    good = [encode(noise(50, 70, seed=seed)) for seed in range(3)]
    truncated = encode(noise(64, 64), "JPEG")[:1500]

    response = classify(strip_mlp, good[0], b"no picture", good[1], truncated, good[2], top_k=10)

    results = response.json()["results"]
    assert response.status_code == 200
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert results[1]["error"]["code"] == "unsupported_picture"
    assert results[1].keys() == {"index", "filename", "error"}
    assert results[3]["error"]["code"] == "broken_picture"
    answers = [{each["label"]: each["probability"] for each in results[place]["predictions"]} for place in (0, 2, 4)]
    assert_same(answers, [probabilities(classify(strip_mlp, each, top_k=10))[0] for each in good])


@pytest.mark.parametrize(
    ("pictures", "status"),
    [
        ([b"no picture"], 415),
        ([encode(noise(64, 64), "JPEG")[:1500]], 422),
        ([encode(noise(101, 100))], 413),
        ([encode(noise(101, 100)), b"no picture"], 413),
        ([b"no picture", encode(noise(101, 100))], 415),
    ],
)
def test_without_any_good_picture_the_first_error_is_the_status(
    narrow: httpx.Client, pictures: list[bytes], status: int
) -> None:
    response = classify(narrow, *pictures, model="shades")

    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert [result["index"] for result in response.json()["results"]] == list(range(len(pictures)))
    assert all(result["error"]["message"] for result in response.json()["results"])


def test_model_and_version_are_chosen_by_the_query(narrow: httpx.Client) -> None:
    def answer(**query: Any) -> tuple[str, int, str]:
        response = classify(narrow, png("blue"), **query).json()
        return *response["model"].values(), response["results"][0]["predictions"][0]["label"]

    assert answer(model="colours") == ("colours", 10, "blue")
    assert answer(model="colours", version=2) == ("colours", 2, "bleu")
    assert answer(model="shades", version=1) == ("shades", 1, "blue")


def test_models_tell_their_provider_and_document(narrow: httpx.Client) -> None:
    models = narrow.get("/models").json()["models"]

    assert [(model["name"], model["version"]) for model in models] == [("colours", 2), ("colours", 10), ("shades", 1)]
    assert {model["provider"] for model in models} == {"CPUExecutionProvider"}
    assert models[1]["artifact"] == json.loads(colours.artifact().model_dump_json())


def test_health(narrow: httpx.Client) -> None:
    assert narrow.get("/healthz").json() == {"status": "ok"}
    assert narrow.get("/readyz").json() == {"status": "ready"}


def test_pictures_of_several_requests_run_together(colour_models: Path, gate: Gate, in_thread: InThread) -> None:
    wanted = ["red", "green", "blue", "red", "red", "blue", "green", "blue"]

    with live_service(colour_models, batch_limit=32, instances=1, decode_threads=2) as client:
        gate.close()
        answers = [in_thread(partial(classify, client, png(wanted[0]), top_k=1))]
        assert gate.reached.wait(PATIENCE)
        answers += [in_thread(partial(classify, client, png(colour), top_k=1)) for colour in wanted[1:]]
        await_metric(client, len(wanted), "stripmlp_stage_duration_seconds_count", stage="decode")
        gate.open.set()
        labels = [next(iter(probabilities(answer.result())[0])) for answer in answers]

        assert labels == wanted
        assert gate.batches == [1, 7]
        assert metric(client, "stripmlp_batch_size_sum") == 8
        assert metric(client, "stripmlp_batch_size_count") == 2


def test_photos_are_answered_the_same_alone_and_together(strip_mlp: httpx.Client, shared: Path) -> None:
    photos = [path.read_bytes() for path in sorted((shared / "data" / "photos").glob("*.JPEG"))]
    assert len(photos) == 39

    together = probabilities(classify(strip_mlp, *photos, top_k=10))
    alone = [
        probabilities(strip_mlp.post("/classify?top_k=10", content=photo, headers={"content-type": "image/jpeg"}))[0]
        for photo in photos
    ]

    assert_same(together, alone)
    assert [max(answer, key=answer.__getitem__) for answer in together] == [next(iter(answer)) for answer in alone]


def test_pictures_of_the_test_set_are_recognised(strip_mlp: httpx.Client, shared: Path) -> None:
    with zipfile.ZipFile(shared / "data" / "cifar10_test_1000.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))[::10]
        answers = probabilities(classify(strip_mlp, *[archive.read(name) for name in names], top_k=1))

    right = [next(iter(answer)) == Path(name).parent.name for answer, name in zip(answers, names, strict=True)]
    assert len(right) == 100
    assert sum(right) >= 80, sum(right)


def test_a_model_that_fails_is_a_problem_not_a_result(colour_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    with live_service(colour_models, max_batch=1) as client:
        monkeypatch.setattr(Session, "run", fail)
        response = classify(client, b"no picture", png("red"))

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "inference_failed"
