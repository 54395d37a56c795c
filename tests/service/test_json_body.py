"""`POST /classify` with JSON."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base64_picture import Base64Picture
from tests.service.live import classify, live_service, metric
from tests.service.pictures import png

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
        post(client, images=5)
        assert metric(client, "stripmlp_images_total", outcome="ok") == 2
        assert metric(client, "stripmlp_images_total", outcome="invalid") == 1
        assert metric(client, "stripmlp_body_bytes") == 0


def test_the_document_is_documented(narrow: httpx.Client) -> None:
    body = narrow.get("/openapi.json").json()["paths"]["/classify"]["post"]["requestBody"]["content"]
    assert body["application/json"]["schema"]["properties"].keys() == {"images", "top_k", "model", "version"}


@given(st.binary())
def test_any_bytes_come_back(data: bytes) -> None:
    for text in (text_of(data), "data:;base64," + text_of(data), json.loads(json.dumps(text_of(data)))):
        assert Base64Picture(text).decode() == data


def test_more_values_than_pictures_could_have_are_not_read(narrow: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    few = narrow.post("/classify", content=b'{"images":["", "", ""], "model": "shades"}', headers=headers)
    assert few.status_code == 415
    answer = narrow.post("/classify", content=b'{"images":[' + b'"",' * 100_000 + b'""]}', headers=headers)
    assert answer.status_code == 413
    assert "more than the 22 values allowed" in answer.json()["detail"]
