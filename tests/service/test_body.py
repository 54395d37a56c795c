"""What `/classify` takes as a body, and where it stops reading."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request
from prometheus_client import Gauge
from starlette.types import Message

from service.admission import HeldBytes
from service.body import MEBIBYTE, Picture, read_pictures
from service.deadline import Deadline
from service.errors import (
    BadRequest,
    ClientGone,
    DeadlineExceeded,
    Overloaded,
    PictureTooLarge,
    RequestTooLarge,
    ServiceError,
    UnsupportedBody,
)
from service.settings import Settings
from tests.service.live import PATIENCE, live_service
from tests.service.pictures import png

RED, BLUE = png("red"), png("blue")
BOUNDARY = "frontier"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def classify(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/classify", params={"model": "shades", "top_k": 1}, **body)


def labels(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [result["predictions"][0]["label"] for result in response.json()["results"]]


def refusal(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


def part(disposition: str, data: bytes, end: bytes = b"\r\n") -> bytes:
    return b"--%b\r\nContent-Disposition: form-data%b\r\n\r\n%b%b" % (
        BOUNDARY.encode(),
        disposition.encode(),
        data,
        end,
    )


@pytest.mark.parametrize(
    "content_type",
    [
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/x-whatever",
        "application/octet-stream",
        "IMAGE/PNG",
        "image/png; name=red.png",
        None,
    ],
)
def test_the_body_is_the_picture_whatever_its_type_says(narrow: httpx.Client, content_type: str | None) -> None:
    response = classify(narrow, content=RED, headers={"content-type": content_type} if content_type else {})

    assert labels(response) == ["red"]
    assert response.json()["results"][0]["filename"] is None


@pytest.mark.parametrize(
    "content_type",
    [
        "application/jsonl",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=x",
        "image",
        "",
    ],
)
def test_other_content_types_are_refused(narrow: httpx.Client, content_type: str) -> None:
    response = classify(narrow, content=RED, headers={"content-type": content_type})

    assert refusal(response) == (415, "unsupported_body")


def test_files_are_read_in_order_with_their_names(narrow: httpx.Client) -> None:
    names = ["größe.png", "a/b.png", "größe.png"]
    response = classify(
        narrow, files=[("files", (name, data)) for name, data in zip(names, (BLUE, RED, BLUE), strict=True)]
    )

    assert labels(response) == ["blue", "red", "blue"]
    assert [result["filename"] for result in response.json()["results"]] == names


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"content": b""}, "holds no picture"),
        ({"content": b"--frontier--\r\n", "headers": MULTIPART}, "holds no picture"),
        ({"files": {"image": RED}}, "field 'image' is not understood"),
        ({"files": {"files": RED}, "data": {"top_k": "3"}}, "field 'top_k' is not understood"),
        ({"files": {"files": (None, RED)}}, "field 'files' is not understood"),
        ({"content": RED, "headers": {"content-type": "multipart/form-data"}}, "no valid boundary"),
        ({"content": RED, "headers": {"content-type": "multipart/form-data; boundary=a*b"}}, "no valid boundary"),
        ({"content": RED, "headers": {"content-type": f"multipart/form-data; boundary={'x' * 71}"}}, "no valid boun"),
        ({"content": RED, "headers": MULTIPART}, "cannot be read"),
        ({"content": part("", RED) + b"--frontier--\r\n", "headers": MULTIPART}, '"name" must be provided'),
    ],
)
def test_bodies_that_make_no_sense_are_refused(narrow: httpx.Client, body: dict[str, Any], said: str) -> None:
    response = classify(narrow, **body)

    assert refusal(response) == (400, "bad_request")
    assert said in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        part('; name="files"; filename="a"', RED, end=b""),
        part('; name="files"; filename="a"', RED) + part('; name="files"; filename="b"', BLUE, end=b""),
        part('; name="files"; filename="a"', RED),
        part('; name="files"; filename="a"', RED) + b"--frontier\r\nContent-Dispo",
    ],
)
def test_a_multipart_body_without_its_end_is_refused(narrow: httpx.Client, body: bytes) -> None:
    """Its last picture may be cut off, and others may have been lost."""
    assert refusal(classify(narrow, content=body, headers=MULTIPART)) == (400, "bad_request")


def test_a_well_formed_body_written_by_hand_is_accepted(narrow: httpx.Client) -> None:
    body = part('; name="files"; filename="a"', RED) + b"--frontier--\r\n"

    assert labels(classify(narrow, content=body, headers=MULTIPART)) == ["red"]


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "raw_unicode_escape", "undefined", "idna", "nonsense"])
@pytest.mark.parametrize("name", ["+2AA-.png", "\\ud800.png", "größe.png"])
def test_names_are_utf_8_whatever_character_set_the_client_announces(
    narrow: httpx.Client, charset: str, name: str
) -> None:
    head = b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n\r\n' % name.encode()
    response = classify(
        narrow,
        content=head + RED + b"\r\n--frontier--\r\n",
        headers={"content-type": f"{MULTIPART['content-type']}; charset={charset}"},
    )

    assert labels(response) == ["red"]
    assert response.json()["results"][0]["filename"] == name


@pytest.mark.parametrize("charset", ["undefined", "nonsense", "utf-7"])
def test_an_extended_name_in_any_character_set_is_no_bug_of_ours(narrow: httpx.Client, charset: str) -> None:
    """RFC 2231's form, which RFC 7578 forbids in multipart bodies."""
    body = part(f"; name=\"files\"; filename*={charset}''%2B2AA-.png", RED) + b"--frontier--\r\n"

    assert classify(narrow, content=body, headers=MULTIPART).status_code in (200, 400)


def test_a_body_that_does_not_arrive_is_given_up(colour_models: Path) -> None:
    with (
        live_service(colour_models, max_body_seconds=1) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 0), PATIENCE) as connection,
    ):
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
        answer = b"".join(iter(lambda: connection.recv(1000), b""))  # until the service closes the connection

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive within 1 seconds" in answer


def chunked(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


@pytest.mark.parametrize("chunks", [True, False])
@pytest.mark.parametrize(
    ("head", "limit", "code", "said"),
    [
        (part('; name="files"; filename="a"', b"", end=b""), 2 * MEBIBYTE, "request_too_large", "request's body"),
        (b"", MEBIBYTE, "picture_too_large", "picture"),
    ],
    ids=["request", "picture"],
)
def test_the_limits_of_bytes_are_inclusive_with_and_without_content_length(
    narrow: httpx.Client, chunks: bool, head: bytes, limit: int, code: str, said: str
) -> None:
    tail = b"\r\n--frontier--\r\n" if head else b""
    headers = MULTIPART if head else {}

    def send(size: int) -> httpx.Response:
        body = head + bytes(size - len(head) - len(tail)) + tail
        return classify(narrow, content=chunked(body) if chunks else body, headers=headers)

    largest, larger = send(limit), send(limit + 1)

    assert ("content-length" in larger.request.headers) is not chunks
    assert largest.json()["results"][0]["error"]["code"] == ("picture_too_large" if head else "unsupported_picture")
    assert refusal(larger) == (413, code)
    assert larger.json()["detail"] == f"the {said} is larger than the {limit // MEBIBYTE} MiB allowed"


def test_a_body_announced_as_too_large_is_refused_before_it_comes(narrow: httpx.Client) -> None:
    head = f"POST /classify?model=shades HTTP/1.1\r\nHost: h\r\nContent-Length: {2 * MEBIBYTE + 1}\r\n\r\n"
    with socket.create_connection((narrow.base_url.host, narrow.base_url.port or 0), PATIENCE) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_the_limit_of_bytes_holds_for_files_together(narrow: httpx.Client) -> None:
    response = classify(narrow, files=[("files", ("a", bytes(MEBIBYTE)))] * 2)

    assert refusal(response) == (413, "request_too_large")


def test_the_limit_of_pictures_is_inclusive(narrow: httpx.Client) -> None:
    assert labels(classify(narrow, files=[("files", ("a", RED))] * 3)) == ["red"] * 3
    too_many = classify(narrow, files=[("files", ("a", RED))] * 4)

    assert refusal(too_many) == (413, "request_too_large")
    assert too_many.json()["detail"] == "the request has more than the 3 pictures allowed"


def test_files_are_kept_in_memory(narrow: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's file system may be read-only."""

    def fail(_: Any) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", fail)
    padded = RED.ljust(MEBIBYTE // 2 * 3, b"\0")
    response = classify(narrow, files={"files": padded})

    assert response.json()["results"][0]["error"]["code"] == "picture_too_large"


class Sent:
    """A request whose body comes in these chunks.

    Args:
        content_type: its header.
        chunks: its body's.
        room: bytes that may be held, of which others hold `held`.
        announced: its Content-Length.
        seconds: until its deadline.
        and_then: what follows the chunks: the end, nothing, or "the client leaves".
        limits: settings.
    """

    def __init__(
        self,
        content_type: str,
        chunks: list[bytes],
        *,
        room: int = 1 << 30,
        held: int = 0,
        announced: str | None = None,
        seconds: float = PATIENCE,
        and_then: str = "the end",
        **limits: Any,
    ) -> None:
        self.unread = list(chunks)
        self.bound = HeldBytes(room, Gauge("bytes", "", registry=None))
        self.bound.change(held)
        self.most_held = 0
        self._headers = [(b"content-type", content_type.encode())]
        if announced is not None:
            self._headers.append((b"content-length", announced.encode()))
        self._and_then = and_then
        self._seconds = seconds
        self._settings = Settings(**limits)

    def read(self) -> list[Picture]:
        return asyncio.run(self._read())

    async def _read(self) -> list[Picture]:
        async def receive() -> Message:
            self.most_held = max(self.most_held, self.bound.held)
            if self.unread:
                body = self.unread.pop(0)
                more = bool(self.unread) or self._and_then != "the end"
                return {"type": "http.request", "body": body, "more_body": more}
            if self._and_then == "the client leaves":
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
            raise AssertionError("nothing sets that event")

        deadline = Deadline(asyncio.get_running_loop().time() + self._seconds, round(self._seconds * 1000))
        request = Request({"type": "http", "headers": self._headers}, receive)
        with self.bound.account(lambda: 7) as account:
            try:
                return await read_pictures(request, self._settings, deadline, account)
            finally:
                self.most_held = max(self.most_held, self.bound.held)


FILE = part('; name="files"; filename="a"', RED)


def test_no_more_is_read_than_allowed() -> None:
    by_bytes = Sent("image/png", [bytes(MEBIBYTE), b"1", b"2", b"3"], max_request_mb=1)
    by_size = Sent("image/png", [bytes(MEBIBYTE), b"1", b"2", b"3"], max_image_mb=1)
    as_announced = Sent("image/png", [b"1", b"2"], max_image_mb=1, announced=str(MEBIBYTE + 1))
    by_pictures = Sent(MULTIPART["content-type"], [FILE] * 10, max_images=2)

    for sent, error, unread in (
        (by_bytes, RequestTooLarge, 2),
        (by_size, PictureTooLarge, 2),
        (as_announced, PictureTooLarge, 2),
        (by_pictures, RequestTooLarge, 7),
    ):
        with pytest.raises(error):
            sent.read()
        assert len(sent.unread) == unread


@pytest.mark.parametrize("size", [1, 7, 64])
def test_pictures_arrive_whole_however_the_body_is_cut(size: int) -> None:
    body = FILE + part('; name="files"; filename="b"', BLUE) + b"--frontier--\r\n"

    sent = Sent(MULTIPART["content-type"], [body[at : at + size] for at in range(0, len(body), size)])

    assert sent.read() == [Picture("a", RED), Picture("b", BLUE)]


@pytest.mark.parametrize("announced", [None, "30"])
def test_the_bodys_bytes_are_held_while_it_is_read(announced: str | None) -> None:
    sent = Sent("image/png", [bytes(10)] * 3, announced=announced, held=1000)

    assert sent.read() == [Picture(None, bytes(30))]
    assert sent.most_held == 1030
    assert sent.bound.held == 1000


def test_a_body_without_room_is_refused_as_soon_as_that_is_known() -> None:
    as_announced = Sent("image/png", [bytes(10)] * 3, room=100, held=71, announced="30")
    as_it_comes = Sent("image/png", [bytes(10)] * 3, room=100, held=81)
    fitting = Sent("image/png", [bytes(10)] * 3, room=100, held=70, announced="30")

    for sent, unread in (as_announced, 3), (as_it_comes, 1):
        with pytest.raises(Overloaded, match="more would pass the limit of 100") as refusal:
            sent.read()
        assert refusal.value.retry_after == 7
        assert len(sent.unread) == unread
    assert fitting.read() == [Picture(None, bytes(30))]
    assert (as_announced.bound.held, as_it_comes.bound.held, fitting.bound.held) == (71, 81, 70)


@pytest.mark.parametrize("announced", ["", "x", "-5", "1e3", "²"])
def test_an_announcement_that_is_no_number_counts_for_nothing(announced: str) -> None:
    sent = Sent("image/png", [bytes(10)], announced=announced)

    assert sent.read() == [Picture(None, bytes(10))]
    assert sent.most_held == 10


def test_a_body_that_is_not_there_by_the_requests_deadline_is_not_the_bodys_fault_alone() -> None:
    with pytest.raises(DeadlineExceeded, match="not ready within 10 ms"):
        Sent("image/png", [b"1"], seconds=0.01, and_then="nothing").read()


def test_a_deadline_that_has_passed_already_is_told() -> None:
    with pytest.raises(DeadlineExceeded):
        Sent("image/png", [b"1"], seconds=-1, and_then="nothing").read()


@pytest.mark.parametrize("content_type", ["image/png", MULTIPART["content-type"]])
def test_a_client_that_leaves_with_the_body_half_sent_is_gone(content_type: str) -> None:
    sent = Sent(content_type, [FILE], and_then="the client leaves", held=5)

    with pytest.raises(ClientGone, match=f"left after {len(FILE)} bytes of the body"):
        sent.read()
    assert sent.bound.held == 5


@pytest.mark.parametrize(
    ("content_type", "chunks", "error"),
    [
        ("text/plain", [RED], UnsupportedBody),
        (MULTIPART["content-type"], [RED], BadRequest),
        ("image/png", [b""], BadRequest),
        ("image/png", [bytes(MEBIBYTE + 1)], RequestTooLarge),
    ],
)
def test_what_a_refused_request_held_is_given_back(
    content_type: str, chunks: list[bytes], error: type[ServiceError]
) -> None:
    sent = Sent(content_type, chunks, max_request_mb=1, held=5)

    with pytest.raises(error):
        sent.read()
    assert sent.bound.held == 5
