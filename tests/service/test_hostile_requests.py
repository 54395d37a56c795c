"""Requests that mean harm: each gets the right 4xx, the next one its answer, and nothing piles up."""

import json
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.service.live import classify, metric
from tests.service.pictures import png
from tests.service.processes import running
from tests.service.test_hostile_pictures import peak_mib

CLASSIFY = "/classify?model=shades"

INFER = "/v2/models/colours/infer"

JSON = {"content-type": "application/json"}

FORM = {"content-type": "multipart/form-data; boundary=B"}


def parts(count: int, name: str = "files") -> bytes:
    part = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\nx\r\n'
    return part.encode() * count + b"--B--\r\n"


@pytest.mark.parametrize(
    ("path", "content", "headers", "status"),
    [
        (CLASSIFY, parts(10_000), FORM, 413),
        (CLASSIFY, parts(10_000, "other"), FORM, 413),
        (CLASSIFY, parts(1)[:-6], FORM, 400),
        (CLASSIFY, parts(1), {"content-type": "multipart/form-data; boundary=C"}, 400),
        (CLASSIFY, parts(1), {"content-type": "multipart/form-data"}, 400),
        (CLASSIFY, parts(1), {"content-type": "multipart/form-data; boundary=" + "b" * 100}, 400),
        (CLASSIFY, b"--B\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\nx\r\n--B--\r\n", FORM, 400),
        (CLASSIFY, b"--B\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n--B--\r\n", FORM, 400),
        (CLASSIFY, b'{"images":' + b"[" * 100_000, JSON, 400),
        (CLASSIFY, b'{"images":[' + b'{"a":' * 100_000, JSON, 400),
        (INFER, b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 400),
        (INFER, b'{"inputs":[{"name":"pixels","shape":[1],"datatype":"UINT8","data":' + b"[" * 100_000, JSON, 400),
        (
            INFER,
            b'{"inputs":[{"name":"pixels","shape":[9999999999,9999999999],"datatype":"UINT8","data":[]}]}',
            {},
            400,
        ),
        (INFER, b"\xff\xfe", JSON, 400),
        ("/v2/repository/index", b"[" * 60_000, JSON, 400),
        (CLASSIFY + "&top_k=0", b"x", {}, 400),
        (CLASSIFY + "&top_k=-1", b"x", {}, 400),
        (CLASSIFY + "&top_k=1e3", b"x", {}, 400),
        (CLASSIFY + "&top_k=" + "9" * 5000, b"x", {}, 400),
        (CLASSIFY + "&version=" + "9" * 5000, b"x", {}, 400),
        (CLASSIFY + "&version=../1", b"x", {}, 400),
        ("/classify?model=../../etc/passwd", b"x", {}, 404),
        ("/classify?model=%00", b"x", {}, 404),
        ("/classify?model=" + "m" * 20_000, b"x", {}, 404),
        ("/v2/models/..%2f..%2fetc%2fpasswd/infer", b"{}", {}, 404),
        ("/v2/models/colours/versions/..%2f10/infer", b"{}", {}, 404),
        ("/static/..%2fpage.py", b"", {}, 404),
    ],
)
def test_each_gets_the_right_refusal(
    narrow: httpx.Client, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = narrow.post(path, content=content, headers=headers) if content else narrow.get(path)

    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    assert classify(narrow, png("red"), model="shades").status_code == 200
    assert metric(narrow, "stripmlp_body_bytes") == 0
    assert metric(narrow, "stripmlp_queue_images") == 0


@pytest.mark.parametrize("media_type", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["x", "1.x", "\xff", "", "=", "9" * 5000])
def test_metrics_are_given_whatever_version_is_asked_for(narrow: httpx.Client, media_type: str, version: str) -> None:
    accept = f"{media_type}; version={version}".encode("latin-1")

    answer = narrow.get("/metrics", headers={b"accept": accept})

    assert answer.status_code == 200
    assert "stripmlp_ready 1" in answer.text


def test_any_number_of_classes_may_be_asked_for(narrow: httpx.Client) -> None:
    (result,) = classify(narrow, png("red"), model="shades", top_k=10**15).json()["results"]

    assert len(result["predictions"]) == 3


def test_no_body_is_kept(colour_models: Path) -> None:
    """Of 3 GB in all, chunked and without end, none is held for longer than its request."""
    megabyte = bytes(1 << 20)
    with running("--models", str(colour_models), "--max-request-mb", "64") as (process, client):
        for _ in range(10):
            for headers in {"content-type": "image/png"}, FORM, JSON:
                try:
                    answer = client.post("/classify", content=(megabyte for _ in range(100)), headers=headers)
                except httpx.WriteError:  # it was refused while it was still being sent
                    continue
                assert answer.status_code in (400, 413), answer.text
        assert classify(client, png("red")).status_code == 200
        assert peak_mib(process.pid) < 250 + 3 * 64


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_line_of_the_log_can_be_forged(colour_models: Path, log_format: str) -> None:
    forged = 'x\n{"level":"critical","message":"forged"}\r\n\x1b[31mforged'
    options = ["--models", str(colour_models), "--log-filenames", "--log-format", log_format]
    with running(*options) as (process, client):
        quoted = quote(forged)
        for name in f'filename="x{forged[-11:]}"', f"filename*=UTF-8''{quoted}":
            head = f'--B\r\nContent-Disposition: form-data; name="files"; {name}\r\n\r\n'.encode()
            body = head + png("red") + b"\r\n--B--\r\n"
            answer = client.post("/classify", content=body, headers=FORM | {"x-request-id": quoted})
            assert answer.status_code in (200, 400), answer.text
            assert "%0A" not in answer.headers["x-request-id"]
        assert client.post("/classify?model=" + quoted, content=png("red")).status_code == 404
        assert client.get("/" + quoted).status_code == 404
        process.await_line("not_found|404")

    for line in process.messages.splitlines():
        assert not line.startswith(('{"level":"critical"', "\x1b[31m", "forged"))
        assert "\x1b[31mforged" not in line
        if log_format == "json" and line.startswith("{"):
            json.loads(line)
