"""What browsers are told not to do with answers."""

import httpx
import pytest

from tests.service.live import classify
from tests.service.pictures import png


@pytest.mark.parametrize("path", ["/healthz", "/models", "/metrics", "/nowhere", "/openapi.json", "/v2", "/", "/docs"])
def test_every_answer_has_them(narrow: httpx.Client, path: str) -> None:
    headers = narrow.get(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert len(headers.get_list("content-security-policy")) == 1
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert ("script-src" in headers["content-security-policy"]) is (path in ("/", "/docs"))
    assert "server" not in headers


def test_so_has_that_of_the_fast_route(strip_mlp: httpx.Client) -> None:
    headers = classify(strip_mlp, png("red")).headers

    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "server" not in headers
