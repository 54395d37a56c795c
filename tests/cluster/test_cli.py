"""The command `strip-mlp-cluster`, as a process."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.docker.compose import free_port
from tests.service import colours
from tests.service.live import await_true
from tests.service.pictures import png
from tests.service.processes import ended, environment

COMMAND = [sys.executable, "-W", "ignore", "-m", "cluster.cli"]

PATIENCE = 120
"""Seconds for Ray to start."""


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    colours.save_served(tmp_path / "models")
    port = free_port()
    log = tmp_path / "log"
    with log.open("w") as errors, subprocess.Popen(
        [*COMMAND, "--models", "models", "--port", port, "--device", "cpu"],
        cwd=tmp_path, env=environment(PYTHONPATH=str(REPOSITORY)), stderr=errors, stdout=errors,
    ) as process:  # fmt: skip
        try:
            await_true(lambda: process.poll() is not None or "listens on port" in log.read_text(), PATIENCE)
            assert process.poll() is None, log.read_text()
            answer = httpx.post(f"http://127.0.0.1:{port}/classify", content=png("red"), trust_env=False)
            assert answer.json()["results"][0]["predictions"][0]["label"] == "red"
            second = ended("--models", str(tmp_path / "models"), "--port", port, "--device", "cpu", command=COMMAND)
            assert second.returncode == 1
            (line,) = second.stderr.splitlines()
            assert f"cannot listen on 127.0.0.1 port {port}" in line
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text()


def test_a_model_that_cannot_be_served_is_told(tmp_path: Path) -> None:
    colours.save_served(tmp_path)
    (tmp_path / "colours" / "1" / "model.onnx").write_bytes(b"no model")

    done = ended("--models", str(tmp_path), "--port", free_port(), "--device", "cpu", command=COMMAND)

    assert done.returncode == 1
    assert "the service cannot start" in done.stderr
    assert "colours" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--models", "nowhere"], "model repository nowhere is not a directory"),
        (["--address", "nonsense"], "Invalid address format: nonsense"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(arguments: list[str], told: str) -> None:
    done = ended("--port", free_port(), *arguments, command=COMMAND)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"the service cannot start: {told}" in line


def test_without_ray_it_names_the_extra() -> None:
    code = "import sys; sys.modules['ray'] = None; from cluster import cli"

    done = ended(command=[sys.executable, "-c", code])

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "install the 'ray' extra" in line


def test_a_wrong_setting_ends_it_with_2() -> None:
    done = ended("--workers", "2", command=COMMAND)

    assert done.returncode == 2
    assert done.stderr.startswith("strip-mlp-cluster: ")
    assert "--replicas" in done.stderr


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        (
            "cli.join = Mock(side_effect=ConnectionError('nobody there'))",
            "the service cannot start: nobody there",
        ),
        (
            "cli.join = cli.deploy = Mock(); cli.serve = Mock(); cli.serve.status().applications = {}",
            "somebody else has ended the application",
        ),
        (
            "cli.join = Mock(); cli.deploy = Mock(side_effect=TimeoutError('HTTP proxies not available'))",
            "the service cannot start: HTTP proxies not available",
        ),
        (
            "cli.join = cli.deploy = Mock(); cli.serve = Mock(); cli.serve.status.side_effect = ActorDiedError()",
            "the service cannot go on: The actor died",
        ),
        (
            "cli.join = cli.deploy = Mock(); cli.serve = Mock(); cli.serve.status.side_effect = RayServeException()",
            "the service cannot go on: ",
        ),
        ("cli.join = Mock(); cli.deploy = lambda _: os.kill(os.getpid(), signal.SIGTERM)", "ending"),
    ],
)
def test_what_becomes_of_a_cluster_is_told_in_a_line(instead: str, told: str) -> None:
    """With stand-ins, as Ray tries a wrong address for minutes."""
    imports = (
        "import os, signal; from unittest.mock import Mock; from cluster import cli; "
        "from ray.exceptions import ActorDiedError; from ray.serve.exceptions import RayServeException"
    )
    code = f"{imports}; {instead}; exit(cli.main())"

    done = ended("--port", free_port(), command=[sys.executable, "-W", "ignore", "-c", code])

    assert done.returncode == (0 if told == "ending" else 1)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
