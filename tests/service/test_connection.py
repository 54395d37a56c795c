"""What a connection may do: each limit with a real socket, and a client beside it that is served."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import connection as connection_module
from service.connection import MOST_HEADERS, MOST_SILENT_BYTES, MOST_WAITING
from tests.service import colours
from tests.service.live import await_metric, await_true, classify, connect, live_service, metric
from tests.service.pictures import png

HEADER_SECONDS = 1.0

BODY = png("red")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    models = tmp_path_factory.mktemp("models")
    colours.save_served(models)
    with live_service(models, header_seconds=HEADER_SECONDS, max_connections=20, max_body_seconds=1) as client:
        yield client


@pytest.fixture(autouse=True)
def _served(client: httpx.Client) -> Iterator[None]:
    """Whatever a test did, the others are served and its connections end."""
    yield
    assert classify(client, BODY).status_code == 200
    await_true(lambda: metric(client, "stripmlp_connections") == 1)
    assert metric(client, "stripmlp_body_bytes") == 0


def received(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer."""
    with contextlib.closing(http.client.HTTPResponse(connection)) as answer:
        answer.begin()
        text = answer.read()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(text or "null")


def is_closed(connection: socket.socket) -> bool:
    """Waits until the service ends the connection, whatever it sends before."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


def post(length: int | None = None, *fields: str, path: str = "/classify") -> bytes:
    given = [f"Content-Length: {length}"] if length is not None else []
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: h", *given, *fields, "", ""]).encode()


CHUNKED = post(None, "Transfer-Encoding: chunked")


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /class", b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Slow: "])
def test_headers_that_do_not_come_end_the_connection(client: httpx.Client, sent: bytes) -> None:
    refused = metric(client, "stripmlp_connections_refused_total", reason="headers_slow")
    with connect(client) as connection:
        connection.sendall(sent)

        status, headers, problem = received(connection)

        assert (status, problem["code"], headers["connection"]) == (408, "headers_too_slow", "close")
        assert headers["content-type"] == "application/problem+json"
        assert is_closed(connection)
    assert metric(client, "stripmlp_connections_refused_total", reason="headers_slow") == refused + 1


def test_headers_that_trickle_end_the_connection(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        connection.settimeout(0.1)
        answer = b""
        while not answer:
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
            if not answer:
                connection.sendall(b"a")
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("start", [b"\r\n", b"GET /hea"])
def test_headers_of_a_later_request_have_the_same_time(client: httpx.Client, start: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert received(connection)[0] == 200
        connection.sendall(start)

        assert received(connection)[0] == 408
        assert is_closed(connection)


def test_a_connection_may_idle_between_requests(client: httpx.Client) -> None:
    with connect(client) as idle, connect(client) as slow:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert received(idle)[0] == 200

        assert received(slow)[0] == 408  # so long ago it was

        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert received(idle)[0] == 200


def test_a_request_that_is_still_being_answered_is_not_cut_off(client: httpx.Client) -> None:
    """The next one's headers come meanwhile, and slowly."""
    with connect(client) as connection:
        connection.sendall(post(len(BODY)) + BODY[:5])
        connection.sendall(BODY[5:] + b"GET /hea")

        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"l")
        assert received(connection)[0] == 408


@pytest.mark.parametrize("sent", [b"X-Long: " + b"a" * MOST_SILENT_BYTES, b"X: y\r\n" * (MOST_HEADERS + 1)])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_headers_that_are_too_large_end_the_connection(client: httpx.Client, sent: bytes, end: bytes) -> None:
    with connect(client) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + sent + end)

        status, headers, problem = received(connection)

        assert (status, problem["code"], headers["connection"]) == (431, "headers_too_large", "close")
    await_metric(client, 1, "stripmlp_connections_refused_total", reason="headers_large")


def test_as_many_headers_as_are_allowed_are_read(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * (MOST_HEADERS - 1) + b"\r\n")

        assert received(connection)[0] == 200


def test_a_url_that_is_too_large_ends_the_connection(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(b"GET /" + b"a" * MOST_SILENT_BYTES + b" HTTP/1.1\r\nHost: h\r\n\r\n")

        assert received(connection)[0] == 431


@pytest.mark.parametrize(
    "endless", [b"1;" + b"e" * 1000, b"0\r\n" + b"X-Trailer: " + b"t" * 1000, b"0\r\n" + b"X: y\r\n" * 150]
)
def test_chunk_extensions_and_trailers_are_no_way_around(client: httpx.Client, endless: bytes) -> None:
    refused = metric(client, "stripmlp_connections_refused_total", reason="headers_large")
    with connect(client) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(CHUNKED + b"1\r\na\r\n" + endless)
            for _ in range(1000):
                connection.sendall(endless[-900:])
        assert is_closed(connection)
    assert metric(client, "stripmlp_connections_refused_total", reason="headers_large") == refused + 1


def test_chunks_of_one_byte_are_read(client: httpx.Client) -> None:
    picture = b"".join(b"1\r\n" + BODY[place : place + 1] + b"\r\n" for place in range(len(BODY))) * 1
    with connect(client) as connection:
        connection.sendall(CHUNKED + picture + b"0\r\n\r\n")

        assert received(connection)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        post(5, "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        post(5, "Content-Length: 6") + b"12345",
        b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: h\r\nX\0Y: z\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_so(client: httpx.Client, sent: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(sent)

        status, headers, problem = received(connection)

        assert (status, problem["code"], headers["connection"]) == (400, "bad_request", "close")
        assert is_closed(connection)


@pytest.mark.parametrize(
    "sent",
    [
        CHUNKED + b"x\r\n",
        CHUNKED + b"-1\r\na",
        CHUNKED + b"10000000000000000\r\na",
        CHUNKED + b"5\nhello\n0\n\n",
        CHUNKED + b"5\r\nhello0\r\n\r\n",
        post(None, "Transfer-Encoding: gzip") + b"5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_body_that_goes_wrong_is_told_so(client: httpx.Client, sent: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(sent)

        status, headers, problem = received(connection)

        assert (status, problem["code"], headers["connection"]) == (400, "bad_request", "close")
        assert connection.recv(1) == b"", "the request's own answer does not follow"


def test_what_is_wrong_behind_a_request_is_not_its_answer(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(post(len(BODY)) + BODY + b"nonsense\r\n\r\n")

        assert not connection.recv(64).startswith(b"HTTP/1.1 400")


def test_an_upgrade_is_passed_over(client: httpx.Client) -> None:
    answer = client.get("/healthz", headers={"connection": "upgrade", "upgrade": "websocket"})
    assert answer.status_code == 200


def test_the_rest_of_a_refused_body_is_awaited_for_a_while(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", 0.5)
    with connect(client) as patient, connect(client) as endless:
        for connection in patient, endless:
            connection.sendall(post(1000, path="/nowhere") + b"a" * 500)
            assert received(connection)[0] == 404

        patient.sendall(b"a" * 500 + b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert received(patient)[0] == 200
        assert is_closed(endless)

        patient.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert received(patient)[0] == 200


def test_an_answer_that_nobody_reads_is_given_up(colour_models: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once the system keeps no more of them for the client."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n"
    with live_service(colour_models, max_body_seconds=1) as client, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((client.base_url.host, client.base_url.port))

        def is_dropped() -> bool:
            return metric(client, "stripmlp_connections") == 1

        def answered() -> float:
            return metric(client, "stripmlp_requests_total", endpoint="none")

        def is_over(before: float) -> bool:
            return is_dropped() or answered() > before

        while not is_dropped():
            before = answered()
            with contextlib.suppress(ConnectionError):
                connection.sendall(asked)
            await_true(partial(is_over, before))
    assert "Traceback" not in caplog.text


def test_more_connections_than_allowed_are_refused(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200  # on a connection that stays
    with contextlib.ExitStack() as stack:
        for _ in range(19):
            stack.enter_context(connect(client)).sendall(b"G")
        await_true(lambda: metric(client, "stripmlp_connections") == 20)

        with connect(client) as refused:
            status, headers, problem = received(refused)

            assert (status, problem["code"], headers["retry-after"]) == (429, "overloaded", "1")
            assert is_closed(refused)
        assert classify(client, BODY).status_code == 200
        assert metric(client, "stripmlp_connections_refused_total", reason="connections") == 1


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/models/colours/load"])
def test_bodies_without_pictures_are_small(tmp_path: Path, path: str) -> None:
    colours.save_served(tmp_path)
    with live_service(tmp_path, admin_token="t", max_body_seconds=1) as client:
        headers = {"authorization": "Bearer t"}
        large = client.post(path, content=b" " * 70_000, headers=headers)
        assert (large.status_code, large.json()) == (
            413,
            {"error": "the request's body is larger than the 65536 bytes that this needs"},
        )
        assert client.post(path, content=b"{", headers=headers).status_code == 400
        assert client.post(path, content=b"[" * 60_000, headers=headers).status_code == 400
        with connect(client) as connection:
            connection.sendall(post(10, "Authorization: Bearer t", path=path) + b"{")
            assert received(connection)[0] == 408


def test_few_requests_may_wait_on_a_connection(client: httpx.Client) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    with connect(client) as connection:
        connection.sendall(asked * (1 + MOST_WAITING))
        answers = b""
        while answers.count(b"HTTP/1.1 200 ") < 1 + MOST_WAITING:
            answers += connection.recv(4096)
    with connect(client) as connection:
        connection.sendall(asked * 5000)
        assert is_closed(connection)
    assert metric(client, "stripmlp_connections_refused_total", reason="pipeline") == 1


def test_500_slow_senders_stop_nobody(colour_models: Path) -> None:
    """Half of them with headers and half with bodies that come byte by byte, until they are ended for it."""
    limits = {"max_connections": 600, "header_seconds": 3, "max_body_seconds": 3}
    with live_service(colour_models, **limits) as client, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(client)) for _ in range(500)]
        for number, connection in enumerate(slow):
            connection.sendall(post(1000)[: None if number % 2 else -2])
        statuses = []
        while metric(client, "stripmlp_connections") > 1:
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"a")
            statuses.append(classify(client, BODY).status_code)

        assert set(statuses) == {200}
        assert metric(client, "stripmlp_connections_refused_total", reason="headers_slow") == 250
        assert metric(client, "stripmlp_requests_total", endpoint="/classify", code="408") == 250
        assert metric(client, "stripmlp_body_bytes") == 0
