"""The services that snippets ask. All serve the bundled model."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest

from service import reloading
from service.models import ServedModel
from service.preprocessing import Pixels
from service.session import Scores, Session
from tests.conftest import REPOSITORY
from tests.docs.pages import USUAL
from tests.service.live import PATIENCE, await_metric, listening_service, live_service
from tests.service.pictures import png
from tests.service.processes import running

MODELS = REPOSITORY / "weights" / "models"

GRPC = "x-grpc-address"

TOKEN = "a-secret-of-yours"


@contextmanager
def usual() -> Iterator[httpx.Client]:
    """As it starts by itself, but with a token, and a second instead of a minute for bodies to arrive."""
    with live_service(MODELS, admin_token=TOKEN, max_body_seconds=1) as client:
        yield client


@contextmanager
def held_runs() -> Iterator[threading.Event]:
    """Runs of pictures wait for the event; those of blank ones, with which models are timed, do not."""
    go_on = threading.Event()
    run = Session.run

    def held(session: Session, pixels: Pixels) -> Scores:
        assert not pixels.any() or go_on.wait(PATIENCE)
        return run(session, pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "run", held)
        try:
            yield go_on
        finally:
            go_on.set()


@contextmanager
def stuck() -> Iterator[httpx.Client]:
    """No run ends."""
    with live_service(MODELS, max_batch=1) as client, held_runs():
        yield client


@contextmanager
def _full() -> Iterator[tuple[httpx.Client, threading.Event]]:
    """There is room for one picture, and one is in work until the event says otherwise."""
    with (
        live_service(MODELS, max_batch=1, max_queue=1, max_images=1) as client,
        ThreadPoolExecutor(1) as pool,
        held_runs() as go_on,
    ):
        running = pool.submit(client.post, "/classify", content=png("red"))
        await_metric(client, 1, "stripmlp_queue_images")
        yield client, go_on
        go_on.set()
        assert running.result(PATIENCE).status_code == 200


@contextmanager
def busy() -> Iterator[httpx.Client]:
    """Refuses every picture."""
    with _full() as (client, _):
        yield client


@contextmanager
def busy_at_first() -> Iterator[httpx.Client]:
    """Refuses a picture, then has room."""
    with _full() as (client, go_on), ThreadPoolExecutor(1) as pool:

        def make_room() -> None:
            await_metric(client, 1, "stripmlp_images_total", outcome="refused")
            go_on.set()

        watching = pool.submit(make_room)
        yield client
        watching.result(PATIENCE)


@contextmanager
def failing() -> Iterator[httpx.Client]:
    """The model raises on every picture."""
    run = Session.run

    def fail(session: Session, pixels: Pixels) -> Scores:
        if pixels.any():
            raise RuntimeError("as the test wants it")
        return run(session, pixels)

    with live_service(MODELS, max_batch=1) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "run", fail)
        yield client


@contextmanager
def loading() -> Iterator[httpx.Client]:
    """Never gets ready."""

    async def load_for_ever(*_: Any) -> ServedModel:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloading, "load_model", load_for_ever)
        with listening_service(MODELS, lambda error: pytest.fail(str(error))) as client:
            yield client


@contextmanager
def with_grpc() -> Iterator[httpx.Client]:
    """The protocol over gRPC too, at the address in the client's header GRPC."""
    # A process of its own: other tests' clients have messages of the same names, which one process cannot hold twice.
    with running("--models", str(MODELS), "--grpc-port", "0") as (process, client):
        found = re.search(r"gRPC on (\S+)", process.messages)
        assert found, process.messages
        client.headers[GRPC] = found[1]
        yield client


SERVICES: dict[str, Callable[[], AbstractContextManager[httpx.Client]]] = {
    USUAL: usual,
    "stuck": stuck,
    "busy": busy,
    "busy_at_first": busy_at_first,
    "failing": failing,
    "loading": loading,
    "with_grpc": with_grpc,
}
