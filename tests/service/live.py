"""A real service: uvicorn on a real socket, in a thread of the test process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from service.app import create_app
from service.errors import StartupError
from service.settings import Settings


class _Server(uvicorn.Server):
    """Tells when it listens; the port is the system's choice."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def live_service(models: Path, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a service that is up and ready. Settings are those of `Settings`."""
    failures: list[StartupError] = []
    app = create_app(Settings(models=models, port=0, device="cpu", **settings), failures.append)
    server = _Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        assert server.listening.wait(30)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            await_ready(client, failures)
            yield client
    finally:
        server.should_exit = True
        thread.join()


def await_ready(client: httpx.Client, failures: list[StartupError]) -> None:
    """Ask until the service says that it is ready; each question waits for its answer."""
    while client.get("/readyz").status_code != 200:
        assert not failures, failures
