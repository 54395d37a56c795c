"""What has served its time is freed at once: memory of requests and models does not wait for the garbage collector."""

import gc
import socket
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.session import Session
from tests.service import colours
from tests.service.live import await_true, classify, connect, live_service, metric
from tests.service.pictures import png


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def answered(client: httpx.Client) -> None:
    assert classify(client, png("red"), b"no picture").status_code == 200


def refused(client: httpx.Client) -> None:
    assert classify(client, b"no picture").status_code == 415
    assert client.post("/classify", content=b"?", headers={"Content-Type": "text/plain"}).status_code == 415
    assert classify(client, png("red"), model="missing").status_code == 404


def late(client: httpx.Client) -> None:
    for _ in range(5):
        answer = client.post("/classify", content=png("red"), headers={"X-Request-Timeout-Ms": "1"})
        assert answer.status_code in (200, 504)


def gone(client: httpx.Client) -> None:
    def ended() -> float:
        return metric(client, "stripmlp_requests_total", endpoint="/classify")

    before = ended()
    with connect(client) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + png("red"))
        connection.shutdown(socket.SHUT_RDWR)
    await_true(lambda: ended() > before)


@pytest.mark.parametrize("ask", [answered, refused, late, gone])
def test_a_request_leaves_nothing_behind(colour_models: Path, ask: Callable[[httpx.Client], None]) -> None:
    with live_service(colour_models) as client:
        ask(client)  # what is made once
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        ask(client)
        metric(client, "stripmlp_requests_total")  # takes the place of the connection's last request
        gc.collect()

        left = Counter(f"{type(each).__module__}.{type(each).__name__}" for each in gc.garbage)
        assert not [name for name in left if name.startswith("service.")], left


def test_a_model_that_is_replaced_leaves_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[weakref.ref[Session]] = []
    init = Session.__init__

    def note(session: Session, *args: Any, **options: Any) -> None:
        init(session, *args, **options)
        sessions.append(weakref.ref(session))

    monkeypatch.setattr(Session, "__init__", note)
    colours.save_served(tmp_path)
    with live_service(tmp_path, admin_token="t") as client, httpx.Client(base_url=client.base_url) as idle:
        assert classify(idle, png("red")).status_code == 200
        colours.save_served(tmp_path, version=2)
        assert client.post("/models/reload", headers={"Authorization": "Bearer t"}).status_code == 200

        first, second = sessions
        await_true(lambda: client.get("/healthz").status_code == 200 and first() is None)
        assert second() is not None
