"""A real service: uvicorn on a real socket, in a thread of the test process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.errors import StartupError
from service.settings import Settings

PATIENCE = 30
"""Seconds after which a test that hangs fails."""


class _Server(uvicorn.Server):
    """Tells when it listens; the port is the system's choice."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def listening_service(
    models: Path, on_failure: Callable[[StartupError], None], **settings: Any
) -> Iterator[httpx.Client]:
    """A client of a service that is up, but may still load its models. Settings are those of `Settings`."""
    app = create_app(Settings(models=models, port=0, device="cpu", **settings), on_failure)
    server = _Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        assert server.listening.wait(PATIENCE)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def live_service(models: Path, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a service that is up and ready. Settings are those of `Settings`."""
    failures: list[StartupError] = []
    with listening_service(models, failures.append, **settings) as client:
        await_ready(client, failures)
        yield client


def await_ready(client: httpx.Client, failures: list[StartupError]) -> None:
    """Ask until the service says that it is ready; each question waits for its answer."""
    given_up = monotonic() + PATIENCE
    while client.get("/readyz").status_code != 200:
        assert not failures, failures
        assert monotonic() < given_up


def await_metric(client: httpx.Client, least: float, name: str, **labels: str) -> None:
    """Ask until a metric has grown to a value; each question waits for its answer."""
    given_up = monotonic() + PATIENCE
    while metric(client, name, **labels) < least:
        assert monotonic() < given_up


def classify(client: httpx.Client, *pictures: bytes, **query: Any) -> httpx.Response:
    """Send the pictures as files 0.png, 1.png and so on."""
    files = [("files", (f"{place}.png", data)) for place, data in enumerate(pictures)]
    return client.post("/classify", files=files, params=query)


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
