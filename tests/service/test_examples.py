"""The OpenAPI document's examples are what the service answers."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import examples
from tests.service.live import live_service


@pytest.fixture(scope="module")
def bundled(bundled_models: Path) -> Iterator[httpx.Client]:
    with live_service(bundled_models, batch_limit=1) as client:
        yield client


def nearly(document: Any) -> Any:
    """Numbers may differ in their last digits from one processor to another."""
    match document:
        case float():
            return pytest.approx(document, abs=1e-4)
        case dict():
            return {name: nearly(value) for name, value in document.items()}
        case list():
            return [nearly(value) for value in document]
        case str() if document.count(":") == 2:
            return nearly([float(document.split(":")[0]), *document.split(":")[1:]])
        case _:
            return document


def parted(document: Any) -> Any:
    """The strings of the classification extension, as `nearly` has them."""
    for output in document.get("outputs", ()):
        output["data"] = [[float(text.split(":")[0]), *text.split(":")[1:]] for text in output["data"]]
    return document


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/classify", examples.CLASSIFY_JSON, examples.CLASSIFY_ANSWER),
        ("/v2/models/strip_mlp_nano_cifar10/infer", examples.INFER_JSON, examples.INFER_ANSWER),
    ],
)
def test_an_example_is_what_is_answered(bundled: httpx.Client, path: str, body: Any, answer: Any) -> None:
    response = bundled.post(path, json=body)
    assert response.status_code == 200
    given = parted(response.json())
    for result in given.get("results", ()):
        assert result["filename"] is None
        result["filename"] = examples.FILENAME
    assert given == nearly(answer)


def test_the_same_picture_as_a_file_and_as_a_body_gets_the_same_answer(bundled: httpx.Client) -> None:
    picture = base64.b64decode(examples.PICTURE)
    as_file = bundled.post("/classify?top_k=2", files=[("files", (examples.FILENAME, picture))]).json()
    as_body = bundled.post("/classify?top_k=2", content=picture).json()
    assert as_file == nearly(examples.CLASSIFY_ANSWER)
    assert as_body["results"][0]["predictions"] == as_file["results"][0]["predictions"]


def test_the_document_shows_them(bundled: httpx.Client) -> None:
    paths = bundled.get("/openapi.json").json()["paths"]
    for path, body, answer in (
        ("/classify", examples.CLASSIFY_JSON, examples.CLASSIFY_ANSWER),
        ("/v2/models/{model_name}/infer", examples.INFER_JSON, examples.INFER_ANSWER),
    ):
        described = paths[path]["post"]
        assert described["requestBody"]["content"]["application/json"]["example"] == body
        assert described["responses"]["200"]["content"]["application/json"]["example"] == answer
