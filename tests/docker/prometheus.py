"""A real Prometheus of the test's own."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.service.live import await_true

CONFIGURATION = REPOSITORY / "docker" / "prometheus"


def require(program: str) -> str:
    """Where a program of Prometheus is; the test is skipped where there is none."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing; it comes with Prometheus (apt-get install prometheus)")
    return path


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """What `promtool` says."""
    command = [require("promtool"), *arguments]
    return subprocess.run(command, input=text, check=False, capture_output=True, text=True, timeout=60)


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def close(self) -> None:
        self._client.close()

    @property
    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[Any]:
        """The samples of an instant query. An expression that cannot be evaluated fails the test."""
        answer = self._client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[Any] = answer["data"]["result"]
        return result

    def exemplars(self, selector: str) -> list[Any]:
        """Of the last hour."""
        answer = self._client.get("/api/v1/query_exemplars", params={"query": selector}).json()
        result: list[Any] = answer["data"]
        return result


@contextmanager
def prometheus_of(target: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus with the project's configuration, but for its target and for one second between scrapes.

    Args:
        target: host and port of the service.
        folder: where it may keep its data.
    """
    program = require("prometheus")
    configuration = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text("utf-8"))
    (job,) = configuration["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["service:8000"]}]
    job["static_configs"] = [{"targets": [target]}]
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(CONFIGURATION / name) for name in configuration["rule_files"]]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with subprocess.Popen(command) as process:
        prometheus = Prometheus(f"http://{address}")
        try:
            await_true(lambda: prometheus.is_ready or process.poll() is not None)
            assert process.poll() is None, "Prometheus does not start; its messages are above"
            yield prometheus
        finally:
            prometheus.close()
            process.terminate()
