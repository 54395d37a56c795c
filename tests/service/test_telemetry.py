"""What requests leave behind: headers, log lines, exemplars."""

import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar
from structlog.testing import capture_logs

from tests.service.live import PATIENCE, await_true, classify, live_service
from tests.service.pictures import png

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

STAGES = ["read", "decode", "queue", "infer", "encode"]


def timing(response: httpx.Response) -> dict[str, float]:
    """Milliseconds by stage."""
    parts = [re.fullmatch(r"(\w+);dur=([\d.]+)", part) for part in response.headers["server-timing"].split(", ")]
    return {part[1]: float(part[2]) for part in parts if part}


def test_an_answer_says_where_its_time_went(narrow: httpx.Client) -> None:
    response = classify(narrow, png("red"), b"no picture", png("blue"), model="colours")

    assert response.status_code == 200
    stages = timing(response)
    assert list(stages) == [*STAGES, "total"]
    assert max(stages.values()) == stages["total"]


@pytest.mark.parametrize(
    ("path", "content", "status", "stages"),
    [
        ("/classify?model=colours", b"no picture", 415, ["read", "encode"]),
        ("/classify?model=other", b"any", 404, []),
        ("/classify?model=colours", b"", 400, []),
        ("/invented", b"", 404, []),
    ],
)
def test_every_answer_has_its_request_id_and_times(
    narrow: httpx.Client, path: str, content: bytes, status: int, stages: list[str]
) -> None:
    response = narrow.post(path, content=content, headers={"X-Request-Id": "mine-1"})

    assert response.status_code == status
    assert response.headers["x-request-id"] == "mine-1"
    assert list(timing(response)) == [*stages, "total"]


def test_requests_without_an_id_get_one_each(narrow: httpx.Client) -> None:
    ids = {narrow.get("/healthz").headers["x-request-id"] for _ in range(3)}

    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


Lines = list[MutableMapping[str, Any]]
"""Of the log, as fields."""


@pytest.fixture
def log() -> Iterator[Lines]:
    """The lines of requests during the test."""
    with capture_logs() as lines:
        yield lines


def told(log: Lines, request_id: str) -> Lines:
    return [line for line in log if line["request_id"] == request_id]


def line_of(log: Lines, request_id: str) -> MutableMapping[str, Any]:
    """The one line, which is written after the answer."""
    await_true(lambda: bool(told(log, request_id)))
    (line,) = told(log, request_id)
    assert (line["event"], line["logger"]) == ("request", "service.requests")
    return line


def test_the_log_has_a_line_for_every_request(narrow: httpx.Client, log: Lines) -> None:
    files = [("files", (f"private-{place}.png", data)) for place, data in enumerate([png("red"), b"no picture"])]

    headers = {"X-Request-Id": "mine-2", "traceparent": TRACEPARENT}
    assert narrow.post("/classify?model=colours", files=files, headers=headers).status_code == 200

    line = line_of(log, "mine-2")
    assert (line["method"], line["endpoint"], line["status"]) == ("POST", "/classify", 200)
    assert (line["model"], line["version"], line["trace_id"]) == ("colours", 10, TRACE)
    assert line["pictures"] == {"ok": 1, "invalid": 1}
    assert list(line["stages_ms"]) == STAGES
    assert line["duration_ms"] >= max(line["stages_ms"].values())
    assert "private" not in str(line)


def test_the_log_tells_of_failures_too(narrow: httpx.Client, log: Lines) -> None:
    narrow.post("/classify?model=colours", content=bytes(3 << 20), headers={"X-Request-Id": "mine-3"})
    narrow.post("/invented/path", headers={"X-Request-Id": "mine-4"})

    line = line_of(log, "mine-3")
    assert (line["status"], line["pictures"]) == (413, {"invalid": 1})
    assert "stages_ms" not in line
    line = line_of(log, "mine-4")
    assert (line["endpoint"], line["status"]) == ("none", 404)
    assert "model" not in line


@pytest.mark.parametrize(
    ("path", "level"),
    [("/healthz", "debug"), ("/readyz", "debug"), ("/metrics", "debug"), ("/models", "info"), ("/invented", "info")],
)
def test_probes_are_told_of_at_level_debug(narrow: httpx.Client, log: Lines, path: str, level: str) -> None:
    narrow.get(path, headers={"X-Request-Id": "mine-6"})

    assert line_of(log, "mine-6")["log_level"] == level


def test_file_names_are_logged_when_asked_for(colour_models: Path, log: Lines) -> None:
    with live_service(colour_models, log_filenames=True) as client:
        files = [("files", ("a.png", png("red"))), ("files", ("größe.png", png("red")))]
        client.post("/classify", files=files, headers={"X-Request-Id": "mine-5"})

        assert line_of(log, "mine-5")["filenames"] == ["a.png", "größe.png"]


def exemplars(client: httpx.Client) -> list[Exemplar]:
    """Of the requests to classify, from an OpenMetrics scrape."""
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    return [
        sample.exemplar
        for family in text_string_to_metric_families(response.text)
        if family.name == "stripmlp_request_duration_seconds"
        for sample in family.samples
        if sample.exemplar and sample.labels["endpoint"] == "/classify"
    ]


def test_a_trace_that_a_client_names_is_the_exemplar_of_its_time(colour_models: Path) -> None:
    with live_service(colour_models) as client:
        client.post("/classify", content=png("red"), headers={"traceparent": "00-odd"})
        assert exemplars(client) == []

        client.post("/classify", content=png("red"), headers={"traceparent": TRACEPARENT})

        await_true(lambda: bool(exemplars(client)))
        (exemplar,) = exemplars(client)
        assert exemplar.labels == {"trace_id": TRACE}
        assert 0 < exemplar.value < PATIENCE
