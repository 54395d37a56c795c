"""Faults brought about for real: what clients see, and that service goes on or says that it does not."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from time import time

import httpx
import pytest
from PIL import Image

from service.preprocessing import Pixels
from service.running import FAILURES_IN_A_ROW
from service.session import Scores, Session
from tests.conftest import REPOSITORY
from tests.service import colours
from tests.service.live import await_metric, await_true, classify, failed_start, live_service, metric
from tests.service.pictures import encode, png
from tests.service.processes import running
from tests.service.test_hostile_pictures import processes_of
from tests.service.test_supervisor import is_alive, workers_of

FAKETIME = shutil.which("faketime")

TWO_DAYS = 2 * 24 * 3600

LONG = 4_000_000
"""Rounds of a loop in a model, which take seconds."""


def poisoned(models: Path) -> Path:
    """A model that gives no number for pure colours."""
    document = colours.artifact().model_dump_json()
    colours.save(models / "colours/1/model.onnx", document, numbers_up_to=255)
    return models


def test_what_is_no_number_is_never_an_answer(tmp_path: Path) -> None:
    with live_service(poisoned(tmp_path)) as client:
        mixed = classify(client, png("maroon"), png("red"), png("navy"))
        alone = classify(client, png("red"))
        tensor = {"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [255] * 3072}
        other = client.post("/v2/models/colours/infer", json={"inputs": [tensor]})

        assert mixed.status_code == 200
        first, second, third = mixed.json()["results"]
        assert (first["predictions"][0]["label"], third["predictions"][0]["label"]) == ("red", "blue")
        assert second["error"]["code"] == "inference_failed"
        assert (alone.status_code, alone.json()["code"]) == (500, "inference_failed")
        assert other.status_code == 500
        assert "no finite number" in other.json()["error"]
        assert metric(client, "stripmlp_images_total", outcome="failed") == 3
        assert metric(client, "stripmlp_images_total", outcome="ok") == 2
        assert client.get("/readyz").status_code == 200


def test_a_model_that_gives_no_number_for_blank_pictures_is_not_served(tmp_path: Path) -> None:
    document = colours.artifact().model_dump_json()
    colours.save(tmp_path / "colours/1/model.onnx", document, numbers_up_to=0)

    assert "gives no finite number for blank pictures" in str(failed_start(tmp_path))


def test_a_session_that_gives_no_numbers_any_more_is_opened_anew(
    colour_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a fault of the memory that holds the weights."""
    with live_service(colour_models) as client:
        sick = [True]
        run = Session.run

        def without_numbers(session: Session, pixels: Pixels) -> Scores:
            scores = run(session, pixels)
            return Scores(scores.logits * float("nan"), scores.probabilities) if sick[0] else scores

        monkeypatch.setattr(Session, "run", without_numbers)
        for _ in range(3):
            assert classify(client, png("red")).status_code == 500
        await_true(lambda: client.get("/readyz").status_code == 503)
        assert classify(client, png("red")).status_code == 503

        sick[0] = False
        await_true(lambda: client.get("/readyz").status_code == 200)
        assert classify(client, png("red")).json()["results"][0]["predictions"][0]["label"] == "red"


def test_a_run_that_raises_costs_the_culprit_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    colours.save(tmp_path / "colours/1/model.onnx", colours.artifact().model_dump_json(), at_white="raise")
    with live_service(tmp_path) as client:

        def together() -> bool:
            """Whether the culprit was in a batch with others, which pictures come into as they are decoded."""
            answer = classify(client, *[png("red")] * 15, png("white"), *[png("blue")] * 15)
            *others, white = sorted(answer.json()["results"], key=lambda result: "error" in result)
            assert white["error"]["code"] == "inference_failed"
            assert [each["predictions"][0]["label"] for each in others] == ["red"] * 15 + ["blue"] * 15
            return re.search(r"failed on a batch of ([2-9]|1\d)", caplog.text) is not None

        await_true(together)
        alone = classify(client, png("white"))
        assert (alone.status_code, alone.json()["code"]) == (500, "inference_failed")
        assert client.get("/readyz").status_code == 200


def test_a_run_that_hangs_is_told_while_it_lasts(tmp_path: Path) -> None:
    document = colours.artifact().model_dump_json()
    colours.save(tmp_path / "colours/1/model.onnx", document, at_white="linger", rounds=LONG)
    with live_service(tmp_path, stall_seconds=0.5) as client:
        late = client.post("/classify", content=png("white"), headers={"X-Request-Timeout-Ms": "200"})
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        await_true(lambda: client.get("/readyz").status_code == 503)
        assert "has not ended for" in client.get("/readyz").json()["detail"]

        await_true(lambda: client.get("/readyz").status_code == 200)
        answer = classify(client, png("red"), png("white"))
        assert [each["predictions"][0]["label"] for each in answer.json()["results"]] == ["red", "red"]


def test_decoders_that_cannot_be_started_are_once_they_can(colour_models: Path) -> None:
    """The process may open nothing more, and what decoded is dead."""
    with running("--models", str(colour_models)) as (process, client):
        assert classify(client, png("red")).status_code == 200
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        for pid in set(processes_of(process.pid)) - {process.pid}:
            os.kill(pid, signal.SIGKILL)

        refused = classify(client, png("red"))
        assert refused.status_code == 500
        assert refused.json()["detail"].endswith("no decoder process can be started")
        assert "Too many open files" in client.get("/readyz").json()["detail"]

        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        await_true(lambda: client.get("/readyz").status_code == 200)
        assert classify(client, png("red")).json()["results"][0]["predictions"][0]["label"] == "red"


def test_a_dead_pool_of_decoders_comes_back(colour_models: Path) -> None:
    with running("--models", str(colour_models)) as (process, client):
        assert classify(client, png("red")).status_code == 200
        first = set(processes_of(process.pid)) - {process.pid}
        assert len(first) >= 3
        for pid in first:  # with what forks them
            os.kill(pid, signal.SIGKILL)

        answer = classify(client, png("red"), png("lime"), png("blue"), png("red"))

        labels = [result["predictions"][0]["label"] for result in answer.json()["results"]]
        assert labels == ["red", "green", "blue", "red"]
        assert client.get("/readyz").status_code == 200
        assert not first & set(processes_of(process.pid))


def address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_a_session_without_memory_fails_its_pictures_alone(bundled_models: Path) -> None:
    """The process gets no more; the service goes on, and recovers once there is memory."""
    options = ["--models", str(bundled_models), "--batch-limit", "64", "--instances", "1"]
    size = 64
    tensor = {
        "name": "pixels", "shape": [64, size, size, 3], "datatype": "UINT8",
        "parameters": {"binary_data_size": 64 * size * size * 3},
    }  # fmt: skip
    text = json.dumps({"inputs": [tensor]}).encode()
    with running(*options) as (process, client):

        def infer() -> int:
            headers = {"Inference-Header-Content-Length": str(len(text))}
            body = text + bytes(64 * size * size * 3)
            path = "/v2/models/strip_mlp_nano_cifar10/infer"
            return client.post(path, content=body, headers=headers).status_code

        limits = resource.prlimit(process.pid, resource.RLIMIT_AS)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (address_space(process.pid) + (8 << 20), limits[1]))
        assert infer() in (200, 500, 503)  # some may fit one by one
        resource.prlimit(process.pid, resource.RLIMIT_AS, limits)

        process.await_line("failed on a batch of")
        await_true(lambda: client.get("/readyz").status_code == 200)
        assert infer() == 200


def test_a_session_that_fails_for_blank_pictures_too_is_opened_anew(tmp_path: Path) -> None:
    """There is memory for everything but a run."""
    document = colours.artifact().model_dump_json()
    colours.save(tmp_path / "colours/1/model.onnx", document, mib=300)
    with running("--models", str(tmp_path), "--batch-limit", "1", "--instances", "1") as (process, client):
        limits = resource.prlimit(process.pid, resource.RLIMIT_AS)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (address_space(process.pid) + (150 << 20), limits[1]))
        for _ in range(FAILURES_IN_A_ROW):
            failed = classify(client, png("red"))
            assert (failed.status_code, failed.json()["code"]) == (500, "inference_failed")

        process.await_line("fails on blank pictures too and is opened anew")
        process.await_line("cannot be opened anew; next try in 1 s")
        assert client.get("/readyz").status_code == 503
        assert classify(client, png("red")).status_code == 503

        resource.prlimit(process.pid, resource.RLIMIT_AS, limits)
        process.await_line("works again")
        assert client.get("/readyz").status_code == 200
        assert classify(client, png("red")).json()["results"][0]["predictions"][0]["label"] == "red"


def test_a_worker_that_is_killed_under_load_takes_the_requests_in_its_work_alone(colour_models: Path) -> None:
    """A client loses its connection then. Whether the service has counted such a request's pictures depends on how far
    they had come; those of all other requests are counted, by the dead and by the living."""
    clients, labels = 8, ["red", "green", "blue"]
    pictures = [encode(Image.new("RGB", (1000, 1000), colour)) for colour in ("red", "lime", "blue")]
    answered: list[list[str]] = []
    lost: list[httpx.TransportError] = []
    over = threading.Event()
    with running("--models", str(colour_models), workers=2) as (process, client), ThreadPoolExecutor(clients) as pool:
        client.headers["Connection"] = "close"  # so that both workers get requests, and later the new one

        def ask_on() -> None:
            while not over.is_set():
                try:
                    answer = classify(client, *pictures)
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                    lost.append(error)
                else:
                    assert answer.status_code == 200, answer.text
                    answered.append([each["predictions"][0]["label"] for each in answer.json()["results"]])

        asking = [pool.submit(ask_on) for _ in range(clients)]
        try:
            await_metric(client, 10 * clients, "stripmlp_images_total", outcome="ok")
            killed, other = workers_of(process)
            with_it = processes_of(killed)
            assert len(with_it) >= 3  # decoders, and what forks them
            before = len(answered)
            os.kill(killed, signal.SIGKILL)
            process.await_line(f"worker {killed} died with exit code -9 and is replaced")
            new = int(process.await_line(r"Started server process \[(\d+)\]")[1])
            assert len(answered) > before + clients  # more than had been sent before
            process.await_line("Application startup complete")
            assert workers_of(process) == {new, other}
            os.kill(other, signal.SIGSTOP)  # so that the new one has to answer
            try:
                assert classify(client, *pictures).status_code == 200
            finally:
                os.kill(other, signal.SIGCONT)
        finally:
            over.set()
        for each in asking:
            each.result()
        await_true(lambda: not any(is_alive(pid) for pid in with_it))

        assert all(each == labels for each in answered)
        assert 1 <= len(lost) <= clients
        sent = len(pictures) * (len(answered) + 1)
        assert sent <= metric(client, "stripmlp_images_total", outcome="ok") <= sent + len(pictures) * len(lost)
        assert metric(client, "stripmlp_images_total") == metric(client, "stripmlp_images_total", outcome="ok")
        await_true(lambda: metric(client, "stripmlp_in_flight_requests") == 1)  # which is this one
        assert metric(client, "stripmlp_queue_images") == metric(client, "stripmlp_body_bytes") == 0


@pytest.mark.skipif(FAKETIME is None, reason="there is no faketime: apt-get install faketime")
@pytest.mark.parametrize("jump", [TWO_DAYS, -TWO_DAYS])
def test_the_clock_may_jump(colour_models: Path, tmp_path: Path, jump: int) -> None:
    """Deadlines, queues and reloads go by clocks that nobody sets."""
    assert FAKETIME is not None
    library = subprocess.run(
        [FAKETIME, "now", "sh", "-c", "echo $LD_PRELOAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    offset = tmp_path / "offset"
    offset.write_text("+0")
    options = ["--models", str(colour_models), "--poll-seconds", "0.2", "--timeout-ms", "20000"]
    with running(
        *options,
        LD_PRELOAD=library,
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    ) as (process, client):
        assert classify(client, png("red")).status_code == 200
        offset.write_text(f"{jump:+d}")

        for _ in range(5):
            answer = client.post("/classify", content=png("red"), headers={"X-Request-Id": "after-the-jump"})
            assert answer.status_code == 200
        logged = datetime.fromisoformat(process.await_line("after-the-jump").string.split()[0])
        assert abs(logged.timestamp() - time() - jump) < 3600  # the service does have the other time
        assert client.get("/readyz").status_code == 200
        path = colour_models / "colours/2"
        colours.save(path / "coming", colours.artifact().model_dump_json())
        (path / "coming").rename(path / "model.onnx")
        await_metric(client, 2, "stripmlp_model_loads_total")
        assert classify(client, png("red")).json()["model"]["version"] == 2


@pytest.mark.parametrize("program", ["service.session", "model_export.cli", "offline.classify", "benchmarks.model"])
def test_the_runtime_tells_nobody_what_it_runs(tmp_path: Path, bundled_models: Path, program: str) -> None:
    """It would begin with files in its user's home."""
    model = next(bundled_models.glob("*/1/model.onnx"))
    code = (
        f"import {program}\nfrom pathlib import Path\nfrom service.session import Session\n"
        f"Session.open(Path({str(model)!r}), device='cpu', threads=1).probe()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, env=environment | {"HOME": str(tmp_path)})

    assert not list(tmp_path.rglob("*onnxruntime*"))
