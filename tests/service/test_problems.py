"""Errors as HTTP answers, RFC 9457."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from service import answers, endpoint, errors, metrics
from service.answers import Problem
from service.problems import problem_response
from tests.service.conftest import Gate, InThread
from tests.service.live import PATIENCE, await_metric, live_service, metric
from tests.service.pictures import png

RED = png("red")


@pytest.mark.parametrize(
    ("method", "url", "status", "title", "code", "detail"),
    [
        ("POST", "/classify?model=none", 404, "Not Found", "model_not_found", "no model 'none' is served"),
        (
            "POST",
            "/classify?model=colours&version=7",
            404,
            "Not Found",
            "model_not_found",
            "'colours' has no version 7",
        ),
        ("POST", "/classify", 400, "Bad Request", "bad_request", "several models are served"),
        ("POST", "/classify?model=shades&top_k=0", 400, "Bad Request", "bad_request", "top_k: "),
        ("POST", "/classify?model=shades&top_k=-1", 400, "Bad Request", "bad_request", "top_k: "),
        ("POST", "/classify?model=shades&top_k=many", 400, "Bad Request", "bad_request", "top_k: "),
        ("POST", "/classify?model=shades&version=0", 400, "Bad Request", "bad_request", "version: "),
        ("POST", "/classify?model=shades&version=one", 400, "Bad Request", "bad_request", "version: "),
        ("POST", "/predict", 404, "Not Found", "not_found", "Not Found"),
        ("GET", "/classify", 405, "Method Not Allowed", "method_not_allowed", "Method Not Allowed"),
        ("DELETE", "/models", 405, "Method Not Allowed", "method_not_allowed", "Method Not Allowed"),
    ],
)
def test_errors_are_problem_details(
    narrow: httpx.Client, method: str, url: str, status: int, title: str, code: str, detail: str
) -> None:
    response = narrow.request(method, url, content=RED if method == "POST" else None)

    problem = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert detail in problem.pop("detail")
    assert problem == {"type": "about:blank", "title": title, "status": status, "code": code}


def test_a_wrong_method_is_told_the_right_one(narrow: httpx.Client) -> None:
    assert narrow.get("/classify").headers["allow"] == "POST"


def test_a_full_queue_says_when_to_come_back(colour_models: Path, gate: Gate, in_thread: InThread) -> None:
    with live_service(colour_models, max_queue=4, max_images=4) as client:
        gate.close()
        held = in_thread(lambda: client.post("/classify", files=[("files", RED)] * 3))
        assert gate.reached.wait(PATIENCE)

        refused = client.post("/classify", files=[("files", RED)] * 2)
        fitting = in_thread(lambda: client.post("/classify", content=RED))
        await_metric(client, 4, "stripmlp_queue_images")
        gate.open.set()

        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert Problem.model_validate_json(refused.content) == Problem(
            type="about:blank",
            title="Too Many Requests",
            status=429,
            detail="model colours has 3 pictures in work, 2 more would pass the limit of 4",
            code="overloaded",
        )
        assert (held.result().status_code, fitting.result().status_code) == (200, 200)
        assert client.post("/classify", files=[("files", RED)] * 4).status_code == 200
        assert metric(client, "stripmlp_images_total", outcome="refused") == 2


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (errors.Overloaded("full", 3), 429, {"retry-after": "3"}),
        (errors.Unauthorized("no token"), 401, {"www-authenticate": "Bearer"}),
        (errors.BodyTooSlow("slow"), 408, {"connection": "close"}),
        (errors.NotReady("not yet"), 503, {}),
        (errors.DeadlineExceeded("late"), 504, {}),
        (errors.ServiceError("odd"), 500, {}),
    ],
)
def test_an_errors_answer_has_what_its_status_asks_for(
    error: errors.ServiceError, status: int, headers: dict[str, str]
) -> None:
    response = problem_response(error)

    problem = Problem.model_validate_json(bytes(response.body))
    assert (response.status_code, problem.status) == (status, status)
    assert (problem.detail, problem.code) == (str(error), error.code)
    usual = {"content-type": "application/problem+json", "content-length": str(len(response.body))}
    assert dict(response.headers) == usual | headers


def test_a_client_that_is_gone_is_told_nothing() -> None:
    response = problem_response(errors.ClientGone("gone"))

    assert (response.status_code, response.body) == (499, b"")


@pytest.mark.parametrize(
    ("module", "function", "method", "url"),
    [
        (endpoint, "read_pictures", "POST", "/classify?model=shades"),
        (answers, "rank", "POST", "/classify?model=shades"),
        (metrics, "choose_encoder", "GET", "/metrics"),
    ],
)
def test_a_bug_tells_the_client_nothing(
    narrow: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: Any,
    function: str,
    method: str,
    url: str,
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("the secret")

    path = url.partition("?")[0]
    before = metric(narrow, "stripmlp_requests_total", endpoint=path, code="500")
    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        response = narrow.request(method, url, content=RED if method == "POST" else None)

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert Problem.model_validate_json(response.content).code == "internal_error"
    # Where uvicorn drops the connection, a client must not use it for another request.
    assert (response.headers.get("connection") == "close") is (module is metrics)
    assert "secret" not in response.text
    assert "ZeroDivisionError" not in response.text
    assert metric(narrow, "stripmlp_requests_total", endpoint=path, code="500") == before + 1
    assert "ZeroDivisionError: the secret" in caplog.text
    assert narrow.post("/classify?model=shades", content=RED).status_code == 200
