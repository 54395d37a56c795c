"""The command line, in real processes."""

import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service import colours
from tests.service.live import await_metric, connect
from tests.service.pictures import png
from tests.service.processes import ended, running
from tests.service.test_session import needs_cpu_build


def test_help_shows_every_setting_with_default_and_environment_name() -> None:
    shown = ended("--help", COLUMNS="500")

    assert shown.returncode == 0
    options = {
        found[1]: found[0]
        for found in re.finditer(r"--([a-z0-9-]+),? .*?(?=\n  -|\Z)", shown.stdout.partition("options:")[2], re.DOTALL)
    }
    assert options.keys() - {"help"} == {name.replace("_", "-") for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        text = " ".join(options[name.replace("_", "-")].split())
        default = "null" if field.default is None else field.default
        assert field.description
        assert field.description in text
        assert f"(default: {default})" in text
        assert f"[env: STRIPMLP_{name.upper()}]" in text


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (["--threads", "0"], {}, "setting threads: Input should be greater than 0"),
        (["--max-batch", "many"], {}, "setting max_batch: Input should be a valid integer"),
        ([], {"STRIPMLP_PORT": "70000"}, "setting port: Input should be less than or equal to 65535"),
        (["--max-images", "600"], {}, "strip-mlp-serve: max_images is 600, but max_queue only 512"),
        (["--max-batches", "8"], {}, "unrecognized arguments: --max-batches"),
    ],
)
def test_a_wrong_setting_is_named(arguments: list[str], settings: dict[str, str], told: str) -> None:
    process = ended(*arguments, **settings)

    assert process.returncode == 2
    assert told in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def assert_not_started(process: subprocess.CompletedProcess[str], told: str) -> None:
    assert process.returncode == 1
    assert re.search(f'"level":"critical".*the service cannot start: .*{told}', process.stderr), process.stderr
    assert "Traceback" not in process.stderr


def test_a_missing_repository_ends_the_service(tmp_path: Path) -> None:
    assert_not_started(ended("--models", str(tmp_path / "missing"), "--port", "0"), "missing is not a directory")


def test_a_model_in_no_version_that_works_ends_the_service(colour_models: Path) -> None:
    colours.save_served(colour_models, "unproven", 1, parity=None)
    colours.save_served(colour_models, "unproven", 2, parity=None)

    process = ended("--models", str(colour_models), "--port", "0", "--max-batch", "1")

    assert_not_started(process, "unproven/[12]/model.onnx .*parity")


def test_an_empty_repository_ends_the_service(tmp_path: Path) -> None:
    assert_not_started(ended("--models", str(tmp_path), "--port", "0"), "has no <name>/<version>/model.onnx")


def test_a_file_without_metadata_ends_the_service(tmp_path: Path) -> None:
    colours.save(tmp_path / "unknown/1/model.onnx")

    assert_not_started(ended("--models", str(tmp_path), "--port", "0"), "has no 'strip_mlp_artifact' metadata")


@needs_cpu_build
def test_cuda_without_cuda_ends_the_service(colour_models: Path) -> None:
    process = ended("--models", str(colour_models), "--port", "0", "--device", "cuda")

    assert_not_started(process, "--device cuda was asked for")


def test_a_port_in_use_ends_the_service(colour_models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = ended("--models", str(colour_models), "--port", str(taken.getsockname()[1]))

    assert process.returncode == 1
    assert "Address already in use" in process.stderr


def test_settings_come_from_the_environment_and_the_command_line(colour_models: Path) -> None:
    with running("--max-images", "2", STRIPMLP_MODELS=str(colour_models), STRIPMLP_MAX_IMAGES="1") as (_, client):
        files = [("files", png("red"))]
        assert client.post("/classify", files=files * 2).status_code == 200
        assert client.post("/classify", files=files * 3).status_code == 413


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_cleanly(colour_models: Path, stop: signal.Signals) -> None:
    with running("--models", str(colour_models), "--drain-seconds", "0") as (process, client):
        assert client.post("/classify", content=png("red")).status_code == 200
        process.signal(stop)
        assert process.wait() == 0

    assert "Application shutdown complete" in process.messages
    assert "Traceback" not in process.messages


def test_a_body_that_does_not_arrive_keeps_the_service_for_the_shutdown_time_alone(colour_models: Path) -> None:
    settings = ("--models", str(colour_models), "--shutdown-seconds", "1", "--drain-seconds", "0")
    with running(*settings) as (process, client), connect(client) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
        await_metric(client, 2, "stripmlp_in_flight_requests")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0

    assert "Cancel 1 running task(s)" in process.messages
