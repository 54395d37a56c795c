"""`POST /classify` with JSON."""

import base64
import json
import socket
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import base64_picture
from service.base64_picture import Base64Picture
from service.errors import PictureTooLarge
from tests.service import colours
from tests.service.conftest import Gate, InThread
from tests.service.live import PATIENCE, await_metric, classify, connect, live_service, metric
from tests.service.pictures import png
from tests.service.test_endpoint import ONE_BY_ONE, answer_on, assert_refused, outcomes, send_head
from tests.service.test_keys import entry

RED, GREEN = png("red"), png("lime")


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def post(client: httpx.Client, **document: Any) -> httpx.Response:
    return client.post("/classify", json=document)


def test_json_is_answered_as_files_are(narrow: httpx.Client) -> None:
    pictures = [RED, b"no picture", GREEN]
    sent = [text_of(RED), text_of(b"no picture"), "data:image/png;base64," + text_of(GREEN)]

    answer = post(narrow, images=sent, top_k=2, model="colours", version=2)

    expected = classify(narrow, *pictures, top_k=2, model="colours", version=2).json()
    for result in expected["results"]:
        result["filename"] = None
    assert answer.status_code == 200
    assert answer.json() == expected
    assert [result.get("error", {}).get("code") for result in answer.json()["results"]] == [
        None,
        "unsupported_picture",
        None,
    ]


@pytest.mark.parametrize(
    ("image", "code", "why"),
    [
        ("no base64!", "broken_picture", "not base64"),
        ("AAA", "broken_picture", "not base64"),
        ("größe", "broken_picture", "not base64"),
        ("", "unsupported_picture", "not a readable picture"),
        ("https://example.com/a.png", "unsupported_picture", "fetches no URLs"),
        ("file:///etc/passwd", "unsupported_picture", "fetches no URLs"),
        ("data:image/png," + text_of(RED), "unsupported_picture", "in base64"),
        ("data:image/png;base64", "unsupported_picture", "in base64"),
        ("data:image/png;base64,!", "broken_picture", "not base64"),
        (text_of(RED + b"\0" * (1 << 20)), "picture_too_large", "bytes"),
    ],
)
def test_a_bad_picture_harms_no_other(narrow: httpx.Client, image: str, code: str, why: str) -> None:
    results = post(narrow, images=[text_of(RED), image], model="shades").json()["results"]
    assert results[0]["predictions"][0]["label"] == "red"
    assert results[1]["error"]["code"] == code
    assert why in results[1]["error"]["message"]


def test_a_data_url_may_be_of_any_case(narrow: httpx.Client) -> None:
    assert post(narrow, images=["DATA:image/PNG;BASE64," + text_of(RED)], model="shades").status_code == 200


@pytest.mark.parametrize(
    ("document", "status", "why"),
    [
        ({}, 400, "images"),
        ({"images": []}, 400, "no picture"),
        ({"images": "AAAA"}, 400, "images"),
        ({"images": [5]}, 400, "images.0"),
        ({"images": [None]}, 400, "images.0"),
        ({"images": ["AAAA"], "url": "https://example.com"}, 400, "url"),
        ({"images": ["AAAA"], "top_k": 0}, 400, "top_k"),
        ({"images": ["AAAA"], "top_k": "2"}, 400, "top_k"),
        ({"images": ["AAAA"], "top_k": 1.5}, 400, "top_k"),
        ({"images": ["AAAA"], "version": 0}, 400, "version"),
        ({"images": ["AAAA"], "model": 5}, 400, "model"),
        ({"images": ["AAAA"], "model": "none"}, 404, "no model 'none'"),
        ({"images": ["AAAA"]}, 400, "several models are served"),
        ({"images": ["AAAA"] * 4, "model": "shades"}, 413, "more than the 3 pictures"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(
    narrow: httpx.Client, document: dict[str, Any], status: int, why: str
) -> None:
    response = post(narrow, **document)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert why in response.json()["detail"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"images": ["\xff"]}', b'{"images": [NaN]}']
)
def test_what_is_no_such_json_is_refused(narrow: httpx.Client, body: bytes) -> None:
    response = narrow.post("/classify", content=body, headers={"content-type": "Application/JSON; charset=utf-8"})
    assert response.status_code == 400
    assert response.json()["code"] == "bad_request"


def test_options_in_the_query_too_are_refused(narrow: httpx.Client) -> None:
    response = narrow.post("/classify?model=shades", json={"images": [text_of(RED)]})
    assert response.status_code == 400
    assert "not in the query" in response.json()["detail"]


def test_a_body_too_large_is_refused(narrow: httpx.Client) -> None:
    response = post(narrow, images=["A" * (3 << 20)], model="shades")
    assert response.status_code == 413
    assert "2 MiB" in response.json()["detail"]


def test_pictures_are_counted_and_nothing_stays_held(colour_models: Path) -> None:
    with live_service(colour_models) as client:
        post(client, images=[text_of(RED), "no base64!", text_of(GREEN)])
        assert metric(client, "stripmlp_images_total", outcome="ok") == 2
        assert metric(client, "stripmlp_images_total", outcome="invalid") == 1
        assert metric(client, "stripmlp_body_bytes") == 0


def test_the_document_is_documented(narrow: httpx.Client) -> None:
    body = narrow.get("/openapi.json").json()["paths"]["/classify"]["post"]["requestBody"]["content"]
    assert body["application/json"]["schema"]["properties"].keys() == {"images", "top_k", "model", "version"}


@given(st.binary())
def test_any_bytes_come_back(data: bytes) -> None:
    for text in (text_of(data), "data:;base64," + text_of(data), json.loads(json.dumps(text_of(data)))):
        assert Base64Picture(text).decode(len(data)) == data


def test_more_values_than_pictures_could_have_are_not_read(narrow: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    few = narrow.post("/classify", content=b'{"images":["", "", ""], "model": "shades"}', headers=headers)
    assert few.status_code == 415
    answer = narrow.post("/classify", content=b'{"images":[' + b'"",' * 100_000 + b'""]}', headers=headers)
    assert answer.status_code == 413
    assert "more than the 22 values allowed" in answer.json()["detail"]


def test_a_request_that_ends_before_its_pictures_are_known_counts_as_one(colour_models: Path) -> None:
    """As it does in other forms."""
    with live_service(colour_models, max_request_mb=1, max_queue_mb=1, max_body_seconds=1, max_batch=1) as client:
        assert post(client, images=5).status_code == 400
        assert post(client, images=["A" * (1 << 20)]).status_code == 413
        with connect(client) as slow:
            send_json(slow, 100, b"{")
            assert answer_on(slow)[0].status == 408
        assert outcomes(client) == {"invalid": 3}
        with connect(client) as late:
            send_json(late, 100, b"{", X_Request_Timeout_Ms="50")
            assert answer_on(late)[0].status == 504
        with connect(client) as holding:
            send_json(holding, 700_001, bytes(700_000))
            await_metric(client, 700_000, "stripmlp_body_bytes")
            with connect(client) as other:
                send_json(other, 600_000)
                assert answer_on(other)[0].status == 429
        await_metric(client, 1, "stripmlp_images_total", outcome="cancelled")
        assert outcomes(client) == {"invalid": 3, "expired": 1, "refused": 1, "cancelled": 1}
        assert metric(client, "stripmlp_body_bytes") == 0


def test_until_a_request_names_its_model_it_counts_for_that_of_those_that_name_none(colour_models: Path) -> None:
    colours.save_served(colour_models, "shades")
    with live_service(colour_models, max_batch=1, default_model="colours") as client:
        assert post(client, images=5, model="shades").status_code == 400
        assert post(client, images=["no base64!", text_of(RED)], model="shades").status_code == 200
        assert post(client, images=[text_of(RED)], model="none").status_code == 404

        assert metric(client, "stripmlp_images_total", model="colours") == 1
        assert metric(client, "stripmlp_images_total", model="shades") == 2
        reads = {
            model: metric(client, "stripmlp_stage_duration_seconds_count", model=model, stage="read")
            for model in ("colours", "shades")
        }
        assert reads == {"colours": 0, "shades": 1}


def test_where_several_models_are_served_the_full_queue_of_one_refuses_none_of_the_others(
    colour_models: Path, gate: Gate, in_thread: InThread
) -> None:
    colours.save_served(colour_models, "shades")
    with live_service(colour_models, max_queue=2, max_images=2, default_model="colours", **ONE_BY_ONE) as client:
        gate.close()
        held = in_thread(partial(post, client, images=[text_of(RED)] * 2))
        assert gate.reached.wait(PATIENCE)

        refused = post(client, images=[text_of(RED)] * 2)
        other = in_thread(partial(post, client, images=[text_of(RED)], model="shades"))
        await_metric(client, 3, "stripmlp_queue_images")

        assert refused.status_code == 429
        gate.open.set()
        assert (held.result().status_code, other.result().status_code) == (200, 200)
        assert outcomes(client) == {"ok": 3, "refused": 2}


def test_the_full_queue_of_the_only_model_refuses_before_the_body_is_read(
    colour_models: Path, gate: Gate, in_thread: InThread
) -> None:
    with live_service(colour_models, max_queue=1, max_images=1, **ONE_BY_ONE) as client:
        gate.close()
        held = in_thread(partial(post, client, images=[text_of(RED)]))
        assert gate.reached.wait(PATIENCE)

        with connect(client) as connection:
            send_json(connection, 1000)
            response, problem = answer_on(connection)

        assert_refused(response.status, response.headers, problem, "1 more would pass the limit of 1")
        gate.open.set()
        assert held.result().status_code == 200
        assert outcomes(client) == {"ok": 1, "refused": 1}


def test_a_key_that_is_for_other_models_counts_as_one_picture_or_those_that_were_read(tmp_path: Path) -> None:
    for name in "colours", "shades":
        colours.save_served(tmp_path / "models", name)
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("guest", "secret", 'models = ["colours"]'))
    with live_service(tmp_path / "models", api_keys_file=keys, max_batch=1, default_model="colours") as client:
        client.headers["X-API-Key"] = "secret"
        raw = client.post("/classify?model=shades", content=RED)
        as_json = post(client, images=[text_of(RED)] * 2, model="shades")

        assert (raw.status_code, as_json.status_code) == (403, 403)
        assert metric(client, "stripmlp_images_total", model="shades", outcome="invalid") == 1 + 2
        assert metric(client, "stripmlp_key_images_total", key="guest", outcome="invalid") == 1 + 2


def send_json(connection: socket.socket, length: int, body: bytes = b"", **headers: str) -> None:
    """The head of a request, and the beginning of its body."""
    send_head(connection, length, Content_Type="application/json", **headers)
    connection.sendall(body)


def test_a_picture_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any length, with any padding."""
    monkeypatch.setattr(base64_picture, "base64", None)
    for size in range(6, 12):
        text = text_of(bytes(size))
        with pytest.raises(PictureTooLarge, match=f"has {size} bytes, 5 are allowed"):
            Base64Picture(text).decode(5)
        with pytest.raises(PictureTooLarge, match=f"has {size} bytes, 5 are allowed"):
            Base64Picture("data:;base64," + text).decode(5)
