"""Who may ask for what, asked of a live service."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service import colours
from tests.service.live import classify, live_service, metric
from tests.service.pictures import png
from tests.service.processes import ended, running
from tests.service.test_keys import entry

ADMIN = {"authorization": "Bearer the token"}
ALL = {"x-api-key": "all models"}
ONE = {"authorization": "Bearer one model"}

INFER = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["eA=="]}]}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(entry("everybody", "all models") + entry("guest", "one model", 'models = ["colours"]'))
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, keys_file: Path) -> Iterator[httpx.Client]:
    models = tmp_path_factory.mktemp("models")
    colours.save_served(models, "colours")
    colours.save_served(models, "shades")
    with live_service(models, api_keys_file=keys_file, admin_token="the token") as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/", "/static/page.js", "/docs", "/openapi.json", "/healthz", "/readyz", "/v2/health/live"]
)
def test_what_is_open_needs_no_key(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_the_description_says_what_needs_a_key_and_how_it_may_be_sent(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    schemes = document["components"]["securitySchemes"]
    assert {(each["type"], each.get("name"), each.get("scheme")) for each in schemes.values()} == {
        ("apiKey", "x-api-key", None),
        ("http", None, "bearer"),
    }
    assert document["paths"]["/classify"]["post"]["security"] == [{name: []} for name in schemes]
    assert "security" not in document["paths"]["/healthz"]["get"]


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/classify"),
        ("GET", "/models"),
        ("GET", "/metrics"),
        ("POST", "/models/reload"),
        ("GET", "/nowhere"),
        ("GET", "/static"),
        ("GET", "/healthz/"),
        ("GET", "/static/../models"),
    ],
)
def test_all_else_needs_one(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> None:
    answer = client.request(method, path, headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthorized"


def test_the_other_protocol_says_it_in_its_own_words(client: httpx.Client) -> None:
    answer = client.post("/v2/models/colours/infer", json=INFER)

    assert answer.status_code == 401
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("headers", [ALL, ONE, ADMIN])
def test_whoever_is_known_is_answered(client: httpx.Client, headers: dict[str, str]) -> None:
    for path in "/models", "/metrics", "/v2/models/colours":
        assert client.get(path, headers=headers).status_code == 200
    answer = client.post("/classify?model=colours", content=png("red"), headers=headers)
    assert answer.status_code == 200


def test_a_key_is_for_its_models(client: httpx.Client) -> None:
    for headers, status in (ALL, 200), (ONE, 403):
        assert client.post("/classify?model=shades", content=png("red"), headers=headers).status_code == status
    answer = client.post("/v2/models/shades/infer", json=INFER, headers=ONE)
    assert (answer.status_code, answer.json()["error"]) == (
        403,
        "key 'guest' may not ask for model 'shades', only for colours",
    )


def test_a_key_does_not_administer(client: httpx.Client) -> None:
    for path in "/models/reload", "/v2/repository/models/colours/load":
        assert client.post(path, headers=ALL).status_code == 403
        assert client.post(path, headers=ADMIN).status_code == 200


def test_keys_are_counted(client: httpx.Client) -> None:
    with httpx.Client(base_url=client.base_url, headers=ADMIN) as admin:
        pictures = metric(admin, "stripmlp_key_images_total", key="everybody", outcome="ok")
        requests = metric(admin, "stripmlp_key_requests_total", key="everybody", code="200")
        asked = client.post("/classify?model=colours", files=[("files", png("red"))] * 3, headers=ALL)

        assert asked.status_code == 200
        assert metric(admin, "stripmlp_key_images_total", key="everybody", outcome="ok") == pictures + 3
        assert metric(admin, "stripmlp_key_requests_total", key="everybody", code="200") == requests + 1


def test_keys_change_without_a_restart(colour_models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("alice", "old"))
    with live_service(colour_models, api_keys_file=keys, admin_token="the token") as client:

        def status(secret: str) -> int:
            return client.post("/classify", content=png("red"), headers={"x-api-key": secret}).status_code

        assert (status("old"), status("new")) == (200, 401)
        keys.write_text(entry("alice", "new"))
        assert client.post("/models/reload", headers=ADMIN).status_code == 200
        assert (status("old"), status("new")) == (401, 200)


def test_the_log_names_the_key_and_never_has_it(colour_models: Path, keys_file: Path) -> None:
    options = ["--models", str(colour_models), "--log-format", "json", "--api-keys-file", str(keys_file)]
    with running(*options, STRIPMLP_ADMIN_TOKEN="the token") as (process, client):
        assert client.post("/classify", content=png("red"), headers=ALL).status_code == 200
        line = json.loads(process.await_line('"endpoint":"/classify"').string)

        assert line["key"] == "everybody"
        assert client.post("/classify", content=png("red"), headers={"x-api-key": "not known"}).status_code == 401
        process.await_line('"status":401')
    for secret in "all models", "not known", "the token":
        assert secret not in process.messages


def test_a_service_without_a_usable_file_does_not_start(colour_models: Path, tmp_path: Path) -> None:
    done = ended("--models", str(colour_models), "--api-keys-file", str(tmp_path / "none"), "--port", "0")
    assert done.returncode == 1
    assert "--api-keys-file" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_file_nobody_needs_a_key(colour_models: Path) -> None:
    with live_service(colour_models) as client:
        assert classify(client, png("red")).status_code == 200
        assert metric(client, "stripmlp_key_requests_total") == 0
