"""Models loaded and unloaded by the protocol."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.service import colours
from tests.service.live import classify, live_service
from tests.service.pictures import png

TOKEN = "let me in"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    colours.save_served(tmp_path, "colours", 1)
    colours.save_served(tmp_path, "shades", 1)
    return tmp_path


@pytest.fixture
def service(models: Path) -> Iterator[httpx.Client]:
    with live_service(models, admin_token=TOKEN) as client:
        yield client


@pytest.fixture
def asking(service: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.base_url.netloc.decode()) as client:
        yield client


def states(asking: triton.InferenceServerClient) -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in asking.get_model_repository_index()}


def test_a_model_is_unloaded_and_loaded_again(
    service: httpx.Client, asking: triton.InferenceServerClient, models: Path
) -> None:
    assert states(asking) == {"colours": "READY", "shades": "READY"}

    asking.unload_model("shades", headers=BEARER)
    assert states(asking) == {"colours": "READY", "shades": "UNAVAILABLE"}
    assert classify(service, png("red"), model="shades").status_code == 404
    assert not asking.is_model_ready("shades")
    assert service.post("/v2/repository/index", json={"ready": True}).json() == [
        {"name": "colours", "version": "1", "state": "READY", "reason": ""}
    ]
    colours.save_served(models, "shades", 2)
    assert service.post("/models/reload", headers=BEARER).status_code == 200
    assert states(asking)["shades"] == "UNAVAILABLE", "a new version does not bring it back"

    asking.load_model("shades", headers=BEARER)
    assert states(asking)["shades"] == "READY"
    assert asking.get_model_metadata("shades")["versions"] == ["2"]


def test_without_any_model_there_is_nothing_to_answer_with(
    service: httpx.Client, asking: triton.InferenceServerClient
) -> None:
    for name in ("colours", "shades"):
        asking.unload_model(name, headers=BEARER)

    assert not asking.is_server_ready()
    response = classify(service, png("red"))
    assert (response.status_code, response.json()["detail"]) == (503, "every model has been unloaded")
    assert service.get("/readyz").status_code == 503
    asking.load_model("colours", headers=BEARER)
    assert asking.is_server_ready()
    assert classify(service, png("red")).status_code == 200


def test_a_model_that_was_put_there_since_is_loaded(asking: triton.InferenceServerClient, models: Path) -> None:
    colours.save_served(models, "tints", 3)
    asking.load_model("tints", headers=BEARER)
    assert asking.is_model_ready("tints", "3")


def test_a_file_that_cannot_be_loaded_is_an_error(asking: triton.InferenceServerClient, models: Path) -> None:
    folder = models / "broken" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"no model")

    with pytest.raises(InferenceServerException, match="cannot be loaded"):
        asking.load_model("broken", headers=BEARER)
    assert states(asking)["broken"] == "UNAVAILABLE"


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize("name", ["none", "..", "%2e%2e%2fmodels"])
def test_what_is_not_in_the_repository_is_not_found(service: httpx.Client, action: str, name: str) -> None:
    response = service.post(f"/v2/repository/models/{name}/{action}", headers=BEARER)
    assert response.status_code == 404
    assert "error" in response.json()


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_only_the_admin_may(service: httpx.Client, action: str, headers: dict[str, str]) -> None:
    response = service.post(f"/v2/repository/models/colours/{action}", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "admin token" in response.json()["error"]
    assert classify(service, png("red"), model="colours").status_code == 200


@pytest.mark.parametrize("body", [{"parameters": {"config": "{}"}}, {"parameters": {"file:1/model.onnx": "AAAA"}}])
def test_no_model_comes_with_the_request(service: httpx.Client, body: dict[str, Any]) -> None:
    response = service.post("/v2/repository/models/colours/load", json=body, headers=BEARER)
    assert response.status_code == 400
    assert "models come from the repository" in response.json()["error"]


def test_a_wrong_body_is_refused(service: httpx.Client) -> None:
    for path in ("/v2/repository/index", "/v2/repository/models/colours/load"):
        response = service.post(path, content=b"[", headers=BEARER | {"Content-Type": "application/json"})
        assert response.status_code == 400
        assert "error" in response.json()


def test_one_of_several_workers_refuses(models: Path) -> None:
    with live_service(models, admin_token=TOKEN, workers=2) as client:
        response = client.post("/v2/repository/models/colours/unload", headers=BEARER)
        assert response.status_code == 400
        assert "one of several processes" in response.json()["error"]
