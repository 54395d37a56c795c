"""A real service on a real socket, in a thread of the test process."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.errors import StartupError
from service.listening import Listeners, listening
from service.server import Server
from service.settings import Settings

PATIENCE = 30
"""Seconds after which a test that hangs fails."""


class _Server(Server):
    """Tells when it listens, and goes on when a model cannot be served; the port is the system's choice."""

    def __init__(self, settings: Settings, listeners: Listeners, on_failure: Callable[[StartupError], None]) -> None:
        super().__init__(settings, listeners)
        self.listening = threading.Event()
        self._tell = on_failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def _on_failure(self, error: StartupError) -> None:
        self._tell(error)


@contextmanager
def listening_service(
    models: Path, on_failure: Callable[[StartupError], None], **settings: Any
) -> Iterator[httpx.Client]:
    """A client of a service that is up, but may still load its models. Settings are those of `Settings`."""
    fixed = {"models": models, "port": 0, "device": "cpu", "poll_seconds": 0, "drain_seconds": 0}
    all_settings = Settings(**{**fixed, **settings})
    with listening(all_settings) as listeners:
        server = _Server(all_settings, listeners, on_failure)
        thread = threading.Thread(target=server.run, name="uvicorn")
        thread.start()
        try:
            assert server.listening.wait(PATIENCE)
            port = listeners.main.getsockname()[1]
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


def failed_start(models: Path, **settings: Any) -> StartupError:
    """Why the models cannot be served; the service never gets ready then, and says the same, but for its folders."""
    failures: list[StartupError] = []
    failed = threading.Event()

    def on_failure(error: StartupError) -> None:
        failures.append(error)
        failed.set()

    with listening_service(models, on_failure, **settings) as client:
        assert failed.wait(PATIENCE)
        for response in client.get("/readyz"), client.post("/classify", content=b"any"):
            assert response.status_code == 503
            told = str(failures[0]).replace(f"{models}/", "").replace(str(models), "(--models)")
            assert response.json()["detail"] == told
    (failure,) = failures
    return failure


def await_true(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Ask until it is so; asking has to take a moment, as a request does."""
    given_up = monotonic() + seconds
    while not condition():
        assert monotonic() < given_up


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of what is waited for nobody tells
            await asyncio.sleep(0)


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


def connect(client: httpx.Client) -> socket.socket:
    """A bare connection to the client's service."""
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=PATIENCE)
