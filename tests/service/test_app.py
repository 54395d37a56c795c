"""The application over its life: loading, ready, failed; and its documentation."""

import json
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import loading
from service.errors import StartupError
from service.repository import ModelFile
from service.session import Session
from service.settings import Settings
from tests.service import colours
from tests.service.conftest import Gate, InThread
from tests.service.live import (
    PATIENCE,
    await_metric,
    await_ready,
    await_true,
    classify,
    connect,
    failed_start,
    listening_service,
    live_service,
    metric,
)
from tests.service.pictures import png

PROBLEM_JSON = "application/problem+json"


def test_while_models_load_the_service_lives_but_is_not_ready(
    colour_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    load = loading.open_sessions

    def load_later(file: ModelFile, settings: Settings) -> list[loading.Opened]:
        assert go_on.wait(PATIENCE)
        return load(file, settings)

    monkeypatch.setattr(loading, "open_sessions", load_later)
    failures: list[StartupError] = []

    with listening_service(colour_models, failures.append) as client:
        try:
            for response in client.get("/readyz"), client.post("/classify", content=png("red")):
                assert response.status_code == 503
                assert response.headers["content-type"] == PROBLEM_JSON
                assert response.json()["code"] == "not_ready"
                assert response.json()["detail"] == "models are being loaded"
            assert client.get("/models").json() == {"models": [], "errors": [], "repository_error": None}
            assert client.get("/healthz").status_code == 200
            assert client.get("/metrics").status_code == 200
        finally:
            go_on.set()

        await_ready(client, failures)
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.post("/classify", content=png("red")).status_code == 200


def test_a_model_that_cannot_be_served_is_told_and_never_ready(tmp_path: Path) -> None:
    colours.save(tmp_path / "unknown/1/model.onnx")

    failure = failed_start(tmp_path)

    assert failure.code == "unusable_model"
    assert "has no 'strip_mlp_artifact' metadata" in str(failure)


def test_a_client_that_goes_away_is_no_error_of_the_service(
    colour_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with live_service(colour_models) as client:
        with connect(client) as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + bytes(10))
        await_metric(client, 1, "stripmlp_requests_total", endpoint="/classify")

        assert metric(client, "stripmlp_requests_total", endpoint="/classify", code="500") == 0
        assert metric(client, "stripmlp_in_flight_requests") == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_service_that_ended_leaves_no_thread(colour_models: Path) -> None:
    before = set(threading.enumerate())

    with live_service(colour_models) as client:
        assert client.post("/classify", content=png("red")).status_code == 200
        during = {thread.name.rsplit("-", 1)[0] for thread in set(threading.enumerate()) - before}

    assert {"uvicorn", "run"} <= during
    assert set(threading.enumerate()) <= before


@pytest.fixture(scope="module")
def openapi(narrow: httpx.Client) -> Any:
    return narrow.get("/openapi.json").json()


def test_the_documentation_is_served(narrow: httpx.Client, openapi: Any) -> None:
    assert "/openapi.json" in narrow.get("/docs").text
    own = {path for path in openapi["paths"] if not path.startswith("/v2")}
    assert own == {"/classify", "/models", "/models/reload", "/healthz", "/readyz", "/metrics"}


def test_the_open_inference_protocol_is_documented(openapi: Any) -> None:
    model, version, repository = (
        "/v2/models/{model_name}",
        "/versions/{model_version}",
        "/v2/repository/models/{model_name}",
    )
    assert {path for path in openapi["paths"] if path.startswith("/v2")} == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/repository/index",
        *(model + middle + end for middle in ("", version) for end in ("", "/ready", "/infer")),
        *(f"{repository}/{action}" for action in ("load", "unload")),
    }
    body = openapi["paths"][model + "/infer"]["post"]["requestBody"]["content"]
    assert body["application/json"]["schema"] == {"$ref": "#/components/schemas/InferRequest"}


def test_every_schema_that_is_named_is_there(openapi: Any) -> None:
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(openapi)))
    assert "InputTensor" in named
    assert named <= openapi["components"]["schemas"].keys()


def test_the_bodies_of_classify_are_documented(openapi: Any) -> None:
    body = openapi["paths"]["/classify"]["post"]["requestBody"]

    binary = {"type": "string", "format": "binary"}
    files = body["content"].pop("multipart/form-data")["schema"]["properties"]["files"]
    assert body["required"] is True
    assert files == {"type": "array", "items": binary}
    assert {"image/jpeg", "image/png", "image/webp", "application/octet-stream"} <= body["content"].keys()
    assert body["content"].pop("application/json")["schema"]["required"] == ["images"]
    assert all(each == {"schema": binary} for each in body["content"].values())


def test_the_query_and_the_header_of_classify_are_documented(openapi: Any) -> None:
    parameters = {each["name"]: each for each in openapi["paths"]["/classify"]["post"]["parameters"]}

    assert parameters.keys() == {"model", "version", "top_k", "X-Request-Timeout-Ms"}
    assert not any(each["required"] for each in parameters.values())
    assert parameters["top_k"]["schema"]["default"] == 5


def test_the_answers_of_classify_are_documented(openapi: Any) -> None:
    responses = openapi["paths"]["/classify"]["post"]["responses"]

    assert responses.keys() == {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504"}
    for status in ("400", "404", "408", "413", "415", "429", "500", "503", "504"):
        properties = responses[status]["content"][PROBLEM_JSON]["schema"]["properties"]
        assert properties.keys() == {"type", "title", "status", "detail", "code"}
    answer = {"$ref": "#/components/schemas/ClassifyAnswer"}
    # Without any good picture, the first one's error is the status of the results.
    for status in ("200", "413", "415", "422"):
        assert responses[status]["content"]["application/json"]["schema"] == answer


def test_a_run_that_hangs_ends_readiness_until_it_is_over(colour_models: Path, gate: Gate, in_thread: InThread) -> None:
    with live_service(colour_models, max_batch=1, stall_seconds=0.05) as client:
        gate.close()
        held = in_thread(partial(classify, client, png("red")))
        assert gate.reached.wait(PATIENCE)

        await_true(lambda: client.get("/readyz").status_code == 503)

        problem = client.get("/readyz").json()
        assert problem["code"] == "not_ready"
        assert problem["detail"].startswith("a run or a decode has not ended for")
        assert client.get("/healthz").status_code == 200
        gate.open.set()
        assert held.result().status_code == 200
        await_ready(client, [])


def test_a_session_that_keeps_failing_ends_readiness_until_it_was_opened_anew(
    colour_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    with live_service(colour_models, max_batch=1) as client:
        with monkeypatch.context() as broken:
            broken.setattr(Session, "open", fail)
            broken.setattr(Session, "run", fail)
            for _ in range(3):
                assert client.post("/classify", content=png("red")).status_code == 500
            await_true(lambda: client.get("/readyz").status_code == 503)

            for response in client.get("/readyz"), client.post("/classify", content=png("red")):
                assert response.status_code == 503
                assert response.json()["code"] == "not_ready"
                assert response.json()["detail"] == "model colours version 1 fails and is being opened anew"
            assert client.get("/healthz").status_code == 200

        await_ready(client, [])
        assert client.post("/classify", content=png("red")).status_code == 200
        assert metric(client, "stripmlp_images_total", outcome="failed") == 3
        assert metric(client, "stripmlp_images_total", outcome="refused") == 1
