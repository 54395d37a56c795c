"""Several processes on one port."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from service.supervisor import START_FAILED, Supervisor, Worker
from service.worker_processes import MULTIPROCESS_FOLDER
from tests.service import colours
from tests.service.live import PATIENCE, await_true, connect, metric
from tests.service.pictures import png
from tests.service.processes import Process, children, running, started


def workers_of(process: Process) -> set[int]:
    """The processes that serve; Python has a helper of its own beside them."""
    return {pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def ask(client: httpx.Client) -> int:
    """The version that answers on a connection of its own."""
    response = httpx.post(client.base_url.join("/classify"), content=png("red"), timeout=PATIENCE)
    assert response.status_code == 200
    version = response.json()["model"]["version"]
    assert isinstance(version, int)
    return version


def options(models: Path, drain_seconds: str = "0") -> list[str]:
    return ["--models", str(models), "--max-batch", "1", "--drain-seconds", drain_seconds]


def test_workers_answer_reload_and_end_cleanly(colour_models: Path) -> None:
    with running(*options(colour_models), workers=2) as (process, client):
        workers = workers_of(process)
        assert len(workers) == 2
        assert [ask(client) for _ in range(10)] == [1] * 10

        colours.save_served(colour_models, version=2)
        process.signal(signal.SIGHUP)
        for _ in workers:
            process.await_line("unloaded colours version 1")
        assert [ask(client) for _ in range(10)] == [2] * 10

        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in process.messages


def test_the_workers_metrics_are_those_of_all_of_them(colour_models: Path) -> None:
    with running(*options(colour_models), workers=2) as (process, client):
        # A connection of its own each time, as it stays with the worker that took it.
        seen = {httpx.get(client.base_url.join("/healthz")).status_code for _ in range(20)}
        assert seen == {200}
        for _ in range(20):
            assert ask(client) == 1
        for _ in range(5):  # whoever answers
            assert fresh_metric(client, "stripmlp_images_total", outcome="ok") == 20
            assert fresh_metric(client, "stripmlp_requests_total", endpoint="/classify", code="200") == 20
            assert fresh_metric(client, "stripmlp_predictions_total", label="red") == 20
            assert fresh_metric(client, "stripmlp_batch_size_count") == 20
            assert fresh_metric(client, "stripmlp_model_info") == 1
            assert fresh_metric(client, "stripmlp_queue_limit") == 2 * 512
            assert fresh_metric(client, "stripmlp_queue_images") == 0
            assert fresh_metric(client, "stripmlp_in_flight_requests") == 1
        await_true(lambda: fresh_metric(client, "stripmlp_ready") == 1)
        both = sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for pid in workers_of(process)
        )
        assert fresh_metric(client, "process_resident_memory_bytes") == pytest.approx(both, rel=0.1)

        client.close()
        killed, _ = workers_of(process)
        os.kill(killed, signal.SIGKILL)
        process.await_line(f"worker {killed} died")
        process.await_line("Application startup complete")

        assert fresh_metric(client, "stripmlp_images_total", outcome="ok") == 20  # those of the dead count on
        assert fresh_metric(client, "stripmlp_queue_limit") == 2 * 512
        assert ask(client) == 1
        assert fresh_metric(client, "stripmlp_images_total", outcome="ok") == 21


def test_a_reload_by_request_reaches_all_workers(colour_models: Path) -> None:
    with running(*options(colour_models), "--admin-token", "t", workers=2) as (process, client):
        colours.save_served(colour_models, version=2)

        assert client.post("/models/reload", headers={"Authorization": "Bearer t"}).status_code == 200

        for _ in range(2):
            process.await_line("unloaded colours version 1")
        assert [ask(client) for _ in range(10)] == [2] * 10
        assert fresh_metric(client, "stripmlp_model_info", version="2") == 1
        assert fresh_metric(client, "stripmlp_model_info", version="1") == 0


def fresh_metric(client: httpx.Client, name: str, **labels: str) -> float:
    """Asked on a connection of its own, of whichever worker takes it."""
    with httpx.Client(base_url=client.base_url, timeout=PATIENCE) as other:
        return metric(other, name, **labels)


def test_a_worker_that_is_killed_is_replaced(colour_models: Path) -> None:
    with running(*options(colour_models), workers=2) as (process, client):
        client.close()
        killed, other = workers_of(process)
        os.kill(killed, signal.SIGKILL)

        process.await_line(f"worker {killed} died with exit code -9 and is replaced")
        new = int(process.await_line(r"Started server process \[(\d+)\]")[1])
        process.await_line("Application startup complete")

        assert workers_of(process) == {new, other}
        os.kill(other, signal.SIGSTOP)  # so that the new one has to answer
        try:
            ready = client.base_url.join("/readyz")
            await_true(lambda: httpx.get(ready, timeout=PATIENCE).status_code == 200)
            assert ask(client) == 1
        finally:
            os.kill(other, signal.SIGCONT)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_a_replacement_takes_no_request_before_its_models_are_loaded(colour_models: Path) -> None:
    for number in range(10):
        colours.save_served(colour_models, f"more{number}")
    loaded = "more9 version 1 on"
    with running(*options(colour_models), "--default-model", "colours", workers=2) as (process, client):
        client.close()
        await_true(lambda: process.messages.count(loaded) == 2)
        killed, _ = workers_of(process)
        os.kill(killed, signal.SIGKILL)

        process.await_line(f"worker {killed} died")
        while process.messages.count(loaded) == 2:
            assert ask(client) == 1


def test_a_model_that_cannot_be_loaded_ends_the_supervisor(tmp_path: Path) -> None:
    colours.save(tmp_path / "unknown/1/model.onnx")

    with started(*options(tmp_path), "--port", "0", "--workers", "2") as process:
        assert process.wait() == 1

    assert re.search("the service cannot start: .*has no 'strip_mlp_artifact' metadata", process.messages)
    assert "could not start; ending the others" in process.messages
    assert "Traceback" not in process.messages


class Ended:
    """A worker that has ended."""

    pid = 1

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode

    def join(self) -> None:
        pass


def supervising(exitcode: int, attempt: int, lived: float, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Supervisor:
    """One whose only worker has ended so, after so many seconds."""
    monkeypatch.setenv(MULTIPROCESS_FOLDER, str(folder))
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    supervisor = Supervisor(Settings(workers=2))
    process: Any = Ended(exitcode)
    worker = supervisor._workers[process.pid] = Worker(process, 1000 - lived, attempt)
    assert supervisor._on_end(worker) == 0
    assert not supervisor._workers
    return supervisor


@pytest.mark.parametrize("exitcode", [0, 1, -9])
@pytest.mark.parametrize(("lived", "pause"), [(60, 0), (0.5, 1)])
def test_a_worker_that_ends_unasked_is_replaced(
    exitcode: int, lived: float, pause: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also with 1, with which Python itself ends after an exception."""
    supervisor = supervising(exitcode, 5, lived, monkeypatch, tmp_path)

    assert supervisor._replacements == [(1000 + pause, 1)]


@pytest.mark.parametrize(("attempt", "pause"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (5000, 60)])
def test_a_replacement_that_cannot_start_is_tried_again_later_and_later(
    attempt: int, pause: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    supervisor = supervising(START_FAILED, attempt, 60, monkeypatch, tmp_path)

    assert supervisor._replacements == [(1000 + pause, attempt + 1)]


def test_a_port_in_use_ends_the_supervisor(colour_models: Path) -> None:
    with running(*options(colour_models)) as (_, client):
        port = str(client.base_url.port)
        with started(*options(colour_models), "--port", port, "--workers", "2") as process:
            assert process.wait() == 1

    assert f"cannot listen on 127.0.0.1 port {port}" in process.messages
    assert "Traceback" not in process.messages


def test_nobody_can_connect_once_the_workers_have_stopped_listening(colour_models: Path) -> None:
    with running(*options(colour_models), workers=2) as (process, client), connect(client) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")  # a worker waits for the body
        process.signal(signal.SIGTERM)

        await_true(lambda: not is_reachable(client))
        connection.sendall(b"x")
        assert connection.recv(4096).startswith(b"HTTP/1.1 415")
        assert process.wait() == 0


def is_reachable(client: httpx.Client) -> bool:
    try:
        connect(client).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: at the very moment that the listener closed
        return False
    return True


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_all_at_once(colour_models: Path, second: signal.Signals) -> None:
    with running(*options(colour_models, "600"), workers=2) as (process, client):
        workers = workers_of(process)
        process.signal(signal.SIGTERM)
        for _ in workers:
            process.await_line("ending in 600 seconds")
        assert client.get("/readyz").status_code == 503

        process.signal(second)
        process.wait()
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert process.messages.count("a second signal: ending at once") == 2


def test_workers_end_when_their_supervisor_was_killed(colour_models: Path) -> None:
    with running(*options(colour_models), workers=2) as (process, client):
        workers = workers_of(process)
        client.close()
        process.signal(signal.SIGKILL)
        try:
            for _ in workers:
                process.await_line("the supervisor has died")
            await_true(lambda: not any(is_alive(pid) for pid in workers))
        finally:
            for pid in filter(is_alive, workers):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether it runs; nobody may have collected its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_replacement_that_cannot_start_leaves_the_others_serving(colour_models: Path) -> None:
    (path,) = colour_models.rglob("model.onnx")
    good = path.read_bytes()
    with running(*options(colour_models), workers=2) as (process, client):
        client.close()
        path.write_bytes(b"broken")
        killed, other = workers_of(process)
        os.kill(killed, signal.SIGKILL)

        process.await_line(r"could not start in a dead one's place; the next try is in 1 s")
        process.await_line(r"could not start in a dead one's place; the next try is in 2 s")
        assert ask(client) == 1

        path.write_bytes(good)
        new = int(process.await_line(r"Started server process \[(\d+)\]")[1])
        process.await_line("Application startup complete")
        assert workers_of(process) == {new, other}
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_a_stop_does_not_wait_for_the_next_try(colour_models: Path) -> None:
    (path,) = colour_models.rglob("model.onnx")
    with running(*options(colour_models), workers=2) as (process, client):
        client.close()
        path.write_bytes(b"broken")
        killed, _ = workers_of(process)
        os.kill(killed, signal.SIGKILL)
        process.await_line(r"could not start in a dead one's place; the next try is in 2 s")

        process.signal(signal.SIGTERM)

        assert process.wait() == 0
    assert "the next try is in 4 s" not in process.messages


def test_a_reload_that_is_asked_for_while_workers_start_ends_none_of_them(colour_models: Path) -> None:
    settings = ("--port", "0", "--poll-seconds", "0", "--log-format", "text", "--workers", "2")
    with started(*options(colour_models), *settings) as process:
        await_true(lambda: len(workers_of(process)) == 2)
        process.signal(signal.SIGHUP)

        for _ in range(2):
            process.await_line("Application startup complete")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert "died" not in process.messages


def test_a_reload_that_is_asked_for_while_models_are_loaded_comes_after_them(colour_models: Path) -> None:
    for number in range(10):
        colours.save_served(colour_models, f"more{number}")
    settings = ("--port", "0", "--poll-seconds", "0", "--log-format", "text", "--workers", "2")
    with started(*options(colour_models), *settings) as process:
        for _ in range(2):
            process.await_line("colours version 1 on")
        colours.save_served(colour_models, version=2)
        process.signal(signal.SIGHUP)

        for _ in range(2):
            process.await_line("unloaded colours version 1")
