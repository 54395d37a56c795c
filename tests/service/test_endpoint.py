"""Requests that are late, left or too many, over a real socket."""

import http.client
import json
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.preprocessing import Pixels
from service.session import Scores, Session
from tests.service.conftest import Gate, InThread
from tests.service.live import PATIENCE, await_metric, classify, connect, live_service, metric
from tests.service.pictures import png

ONE_BY_ONE: dict[str, Any] = {"batch_limit": 1, "instances": 1, "decode_threads": 2}
"""While one picture is held in the session, others are decoded and wait."""

OUTCOMES = ("ok", "invalid", "refused", "expired", "cancelled", "failed")


def outcomes(client: httpx.Client) -> dict[str, float]:
    """Those that have happened."""
    counts = {outcome: metric(client, "stripmlp_images_total", outcome=outcome) for outcome in OUTCOMES}
    return {outcome: count for outcome, count in counts.items() if count}


def await_decoded(client: httpx.Client, pictures: int) -> None:
    await_metric(client, pictures, "stripmlp_stage_duration_seconds_count", stage="decode")


def send_head(connection: socket.socket, length: int, **headers: str) -> None:
    """Of a request to classify."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{''.join(lines)}\r\n"
    connection.sendall(head.encode())


def answer_on(connection: socket.socket) -> tuple[http.client.HTTPResponse, Any]:
    """The answer and its JSON."""
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        return response, json.loads(response.read())


def assert_refused(status: int, headers: Any, problem: Any, why: str) -> None:
    assert status == 429, problem
    assert problem["code"] == "overloaded"
    assert why in problem["detail"]
    assert headers["content-type"] == "application/problem+json"
    assert int(headers["retry-after"]) >= 1


def test_past_the_deadline_a_picture_never_reaches_the_session(
    colour_models: Path, gate: Gate, in_thread: InThread
) -> None:
    with live_service(colour_models, **ONE_BY_ONE) as client:
        gate.close()
        held = in_thread(partial(classify, client, png("red")))
        assert gate.reached.wait(PATIENCE)

        late = client.post("/classify", content=png("blue"), headers={"X-Request-Timeout-Ms": "100"})

        assert late.status_code == 504
        assert late.headers["content-type"] == "application/problem+json"
        assert late.json()["code"] == "deadline_exceeded"
        assert late.json()["detail"] == "the answer was not ready within 100 ms"
        assert metric(client, "stripmlp_queue_images") == 1
        gate.open.set()
        assert held.result().status_code == 200
        assert classify(client, png("green")).status_code == 200
        assert gate.batches == [1, 1]
        assert outcomes(client) == {"ok": 2, "expired": 1}


def test_a_run_that_ends_after_the_deadline_answers_nobody(colour_models: Path, gate: Gate) -> None:
    with live_service(colour_models, timeout_ms=100, **ONE_BY_ONE) as client:
        gate.close()
        assert classify(client, png("red")).status_code == 504
        gate.open.set()
        assert client.post("/classify", content=png("blue"), headers={"X-Request-Timeout-Ms": "30000"}).is_success
        assert outcomes(client) == {"ok": 1, "expired": 1}


def test_a_deadline_is_capped(colour_models: Path, gate: Gate) -> None:
    with live_service(colour_models, timeout_ms=100, max_timeout_ms=100, **ONE_BY_ONE) as client:
        gate.close()
        late = client.post("/classify", content=png("red"), headers={"X-Request-Timeout-Ms": "99999999999999999999"})
        gate.open.set()
        assert late.status_code == 504
        assert "within 100 ms" in late.json()["detail"]


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "1e3", "soon", "", "²"])
def test_a_deadline_that_is_no_number_is_refused(narrow: httpx.Client, asked: str) -> None:
    response = narrow.post(
        "/classify?model=shades", content=png("red"), headers=[(b"X-Request-Timeout-Ms", asked.encode())]
    )

    assert response.status_code == 400
    assert response.json()["code"] == "bad_request"
    assert "X-Request-Timeout-Ms" in response.json()["detail"]


def test_a_body_that_is_slower_than_the_deadline_is_given_up(colour_models: Path) -> None:
    with live_service(colour_models, max_batch=1) as client, connect(client) as connection:
        send_head(connection, 100, X_Request_Timeout_Ms="50")
        connection.sendall(b"abc")

        response, problem = answer_on(connection)

        assert response.status == 504
        assert problem["code"] == "deadline_exceeded"
        assert outcomes(client) == {"expired": 1}


def test_the_picture_of_a_client_that_left_never_reaches_the_session(
    colour_models: Path, gate: Gate, in_thread: InThread
) -> None:
    with live_service(colour_models, **ONE_BY_ONE) as client:
        gate.close()
        answers = [in_thread(partial(classify, client, png("red"), top_k=1))]
        assert gate.reached.wait(PATIENCE)
        picture = png("blue")
        with connect(client) as connection:
            send_head(connection, len(picture))
            connection.sendall(picture)
            await_decoded(client, 2)
            answers.append(in_thread(partial(classify, client, png("green"), top_k=1)))
            await_decoded(client, 3)
        await_metric(client, 1, "stripmlp_images_total", outcome="cancelled")
        assert metric(client, "stripmlp_queue_images") == 2
        gate.open.set()

        labels = [answer.result().json()["results"][0]["predictions"][0]["label"] for answer in answers]
        assert labels == ["red", "green"]
        assert gate.batches == [1, 1]
        assert outcomes(client) == {"ok": 2, "cancelled": 1}
        assert metric(client, "stripmlp_requests_total", endpoint="/classify", code="499") == 1
        assert metric(client, "stripmlp_queue_images") == 0


def test_a_client_that_leaves_before_its_picture_is_decoded_costs_no_decoding(
    colour_models: Path, gate: Gate, in_thread: InThread
) -> None:
    with live_service(colour_models, batch_limit=1, instances=1, decode_threads=1) as client:
        gate.close()
        held = in_thread(partial(classify, client, png("red")))
        assert gate.reached.wait(PATIENCE)
        picture = png("blue")
        with connect(client) as connection:
            send_head(connection, len(picture))
            connection.sendall(picture)
            await_metric(client, 2, "stripmlp_queue_images")
        await_metric(client, 1, "stripmlp_images_total", outcome="cancelled")
        gate.open.set()

        assert held.result().status_code == 200
        assert classify(client, png("green")).status_code == 200
        assert metric(client, "stripmlp_stage_duration_seconds_count", stage="decode") == 2
        assert gate.batches == [1, 1]


def test_a_full_queue_refuses_before_the_body_is_read(colour_models: Path, gate: Gate, in_thread: InThread) -> None:
    with live_service(colour_models, max_queue=2, max_images=2, **ONE_BY_ONE) as client:
        gate.close()
        held = in_thread(partial(classify, client, png("red"), png("green")))
        assert gate.reached.wait(PATIENCE)

        with connect(client) as connection:
            send_head(connection, 1000)
            response, problem = answer_on(connection)

        assert_refused(response.status, response.headers, problem, "1 more would pass the limit of 2")
        gate.open.set()
        assert held.result().status_code == 200
        assert classify(client, png("red"), png("blue")).status_code == 200
        assert outcomes(client) == {"ok": 4, "refused": 1}


def test_a_request_of_more_pictures_than_there_is_room_for_is_refused_as_a_whole(
    colour_models: Path, gate: Gate, in_thread: InThread
) -> None:
    with live_service(colour_models, max_queue=3, max_images=3, **ONE_BY_ONE) as client:
        gate.close()
        held = in_thread(partial(classify, client, png("red"), png("green")))
        assert gate.reached.wait(PATIENCE)

        refused = classify(client, png("red"), png("blue"))

        assert_refused(refused.status_code, refused.headers, refused.json(), "2 more would pass the limit of 3")
        gate.open.set()
        assert held.result().status_code == 200
        assert gate.batches == [1, 1]
        assert outcomes(client) == {"ok": 2, "refused": 2}


def test_bodies_together_are_bounded_before_they_are_read(colour_models: Path) -> None:
    with live_service(colour_models, max_queue_mb=1, max_request_mb=1, max_batch=1) as client:
        with connect(client) as first:
            send_head(first, 700_001)
            first.sendall(bytes(700_000))
            await_metric(client, 700_000, "stripmlp_body_bytes")
            with connect(client) as second:
                send_head(second, 600_000)
                response, problem = answer_on(second)
            assert_refused(response.status, response.headers, problem, "requests hold 700000 bytes, 600000 more")
            assert classify(client, png("red")).status_code == 200
        await_metric(client, 1, "stripmlp_images_total", outcome="cancelled")
        assert metric(client, "stripmlp_body_bytes") == 0

        with connect(client) as third:  # what the first held was given back
            send_head(third, 600_000)
            third.sendall(bytes(600_000))
            response, _ = answer_on(third)
        assert response.status == 415
        assert outcomes(client) == {"ok": 1, "refused": 1, "cancelled": 1, "invalid": 1}


def test_announced_bytes_keep_nobody_out(colour_models: Path) -> None:
    with live_service(colour_models, max_queue_mb=1, max_request_mb=1, max_batch=1) as client, connect(client) as first:
        send_head(first, 1_000_000)
        await_metric(client, 2, "stripmlp_in_flight_requests")

        response = client.post("/classify", content=bytes(900_000))

        assert response.status_code == 415, response.text


def test_bodies_of_unknown_length_are_bounded_as_they_come(colour_models: Path, in_thread: InThread) -> None:
    with live_service(colour_models, max_queue_mb=1, max_request_mb=1, max_batch=1) as client, connect(client) as first:
        send_head(first, 700_001)
        first.sendall(bytes(700_000))
        await_metric(client, 700_000, "stripmlp_body_bytes")

        refused = client.post("/classify", content=iter([bytes(100_000)] * 6))

        assert_refused(refused.status_code, refused.headers, refused.json(), "more would pass the limit of 1048576")


def test_a_deadline_that_cannot_be_met_at_the_measured_rate_is_refused(
    colour_models: Path, gate: Gate, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Session.run

    def slow(session: Session, pixels: Pixels) -> Scores:
        until = time.thread_time() + 0.05  # as a run's CPU time is what is measured
        while time.thread_time() < until:
            pass
        return run(session, pixels)

    monkeypatch.setattr(Session, "run", slow)
    deadline = {"X-Request-Timeout-Ms": "60"}
    with live_service(colour_models, **ONE_BY_ONE) as client:
        gate.close()
        held = [in_thread(partial(classify, client, png("red"))) for _ in range(3)]
        assert gate.reached.wait(PATIENCE)
        await_decoded(client, 3)

        with connect(client) as connection:
            send_head(connection, 1000, X_Request_Timeout_Ms="60")
            response, problem = answer_on(connection)

        assert_refused(response.status, response.headers, problem, "at the present rate")
        gate.open.set()
        assert [each.result().status_code for each in held] == [200] * 3
        # Nobody is before it: it may try, whatever becomes of it.
        assert client.post("/classify", content=png("red"), headers=deadline).status_code in (200, 504)
