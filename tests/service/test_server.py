"""One process from SIGTERM to its end, and SIGHUP, in real processes."""

import http.client
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.service import colours
from tests.service.live import await_metric, await_true, connect
from tests.service.pictures import png
from tests.service.processes import Process, running, started

LONG = "600"
"""Seconds of draining that no test waits for."""


def drain(process: Process, client: httpx.Client) -> None:
    """Send SIGTERM and wait until `/readyz` tells so."""
    process.signal(signal.SIGTERM)
    await_true(lambda: client.get("/readyz").status_code == 503)


def answer_on(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def test_sigterm_ends_readiness_at_once_and_the_service_after_the_drain(colour_models: Path) -> None:
    with running("--models", str(colour_models), "--max-batch", "1", "--drain-seconds", "3") as (process, client):
        assert "connection" not in client.post("/classify", content=png("red")).headers
        drain(process, client)

        ready = client.get("/readyz")
        health = client.get("/healthz")
        answers = [client.post("/classify", content=png("red"))]
        while answers[-1].headers["date"] == answers[0].headers["date"]:  # headers are renewed with the date
            answers.append(client.post("/classify", content=png("red")))

        assert process.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            connect(client)

    assert (ready.status_code, ready.json()["detail"]) == (503, "the service is shutting down")
    assert {(answer.status_code, answer.headers["connection"]) for answer in answers} == {(200, "close")}
    assert answers[-1].json()["results"][0]["predictions"][0]["label"] == "red"
    assert health.status_code == 200
    assert "Traceback" not in process.messages


def test_a_request_in_flight_at_sigterm_is_answered(colour_models: Path) -> None:
    picture = png("green")
    half = len(picture) // 2
    with (
        running("--models", str(colour_models), "--max-batch", "1", "--drain-seconds", "0") as (process, client),
        connect(client) as connection,
    ):
        connection.sendall(
            f"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: {len(picture)}\r\n\r\n".encode() + picture[:half]
        )
        await_metric(client, 2, "stripmlp_in_flight_requests")
        client.close()
        process.signal(signal.SIGTERM)
        process.await_line("Waiting for connections to close")

        connection.sendall(picture[half:])
        with answer_on(connection) as response:
            assert response.status == 200
            assert response.headers["connection"] == "close"
            assert b"green" in response.read()
        assert process.wait() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_service_at_once(colour_models: Path, second: signal.Signals) -> None:
    with running("--models", str(colour_models), "--max-batch", "1", "--drain-seconds", LONG) as (process, client):
        drain(process, client)
        process.signal(second)

        assert process.wait() == -second
    assert "a second signal: ending at once" in process.messages


def test_sigint_skips_the_drain(colour_models: Path) -> None:
    with running("--models", str(colour_models), "--max-batch", "1", "--drain-seconds", LONG) as (process, _):
        process.signal(signal.SIGINT)

        assert process.wait() == 0


def test_sighup_reloads_the_models(colour_models: Path) -> None:
    with running("--models", str(colour_models), "--max-batch", "1") as (process, client):
        colours.save_served(colour_models, version=2)
        process.signal(signal.SIGHUP)

        await_true(lambda: [model["version"] for model in client.get("/models").json()["models"]] == [2])
        assert client.post("/classify", content=png("red")).json()["model"]["version"] == 2


def test_a_signal_before_the_models_are_loaded_ends_the_service_too(colour_models: Path) -> None:
    """The models are so many that they cannot be loaded before the signal is taken."""
    for number in range(20):
        colours.save_served(colour_models, f"model{number}")
    with started("--models", str(colour_models), "--port", "0", "--drain-seconds", "0") as process:
        process.await_line("process \\d+ listens on")
        process.signal(signal.SIGTERM)

        assert process.wait() == 0
    assert "Traceback" not in process.messages


def test_sighup_before_there_is_something_to_reload_ends_nothing(colour_models: Path) -> None:
    options = ("--models", str(colour_models), "--port", "0", "--max-batch", "1", "--drain-seconds", "0")
    with started(*options) as process:
        process.await_line("Started server process")
        process.signal(signal.SIGHUP)

        process.await_line("process \\d+ listens on")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
