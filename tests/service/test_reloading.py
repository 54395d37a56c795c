"""What is served follows the repository, and no request notices."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.decoders import Decoders
from service.errors import StartupError
from service.metrics import Metrics
from service.models import Models
from service.reloading import Reloader
from service.scheduling import Scheduler
from service.settings import Settings
from tests.service import colours
from tests.service.conftest import Gate, InThread
from tests.service.live import PATIENCE, await_metric, await_true, classify, failed_start, live_service, metric
from tests.service.pictures import png

TOKEN = "open sesame"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}

QUICK: dict[str, Any] = {"max_batch": 1, "admin_token": TOKEN}


def reload(client: httpx.Client) -> Any:
    response = client.post("/models/reload", headers=ADMIN)
    assert response.status_code == 200, response.text
    return response.json()


def versions(answer: Any) -> list[int]:
    return [model["version"] for model in answer["models"]]


def label(client: httpx.Client) -> str:
    """What the newest version calls red."""
    response = classify(client, png("red"))
    assert response.status_code == 200, response.text
    found = response.json()["results"][0]["predictions"][0]["label"]
    assert isinstance(found, str)
    return found


def remove(models: Path, version: int) -> None:
    (models / f"colours/{version}/model.onnx").unlink()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".new")
    unfinished.write_bytes(content)
    unfinished.rename(path)  # or the polling may see the file before it has its content


def break_file(path: Path) -> None:
    put(path, b"no model")


def save_truncated(path: Path) -> None:
    whole = colours.save(path.with_name("whole"), colours.artifact().model_dump_json()).read_bytes()
    put(path, whole[: len(whole) // 2])


def save_without_metadata(path: Path) -> None:
    colours.save(path)


def save_with_wrong_metadata(path: Path) -> None:
    """It promises two classes, and the model has three."""
    colours.save(path, colours.artifact(labels=("red", "green")).model_dump_json())


def save_unproven(path: Path) -> None:
    colours.save(path, colours.artifact(parity=None).model_dump_json())


class Trickle:
    """A request's body whose second half waits for `go_on`."""

    def __init__(self, data: bytes) -> None:
        self.go_on = threading.Event()
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data[:20]
        assert self.go_on.wait(PATIENCE)
        yield self._data[20:]


BAD_FILES: list[Callable[[Path], None]] = [
    break_file, save_truncated, save_without_metadata, save_with_wrong_metadata, save_unproven,
]  # fmt: skip


def test_a_request_swaps_in_a_new_version(colour_models: Path) -> None:
    with live_service(colour_models, **QUICK) as client:
        colours.save_served(colour_models, version=2, labels=("rouge", "vert", "bleu"))
        assert label(client) == "red"

        answer = reload(client)

        assert versions(answer) == [2]
        assert answer == client.get("/models").json()
        assert label(client) == "rouge"
        assert classify(client, png("red"), version=1).status_code == 404
        assert metric(client, "stripmlp_model_info") == 1
        assert metric(client, "stripmlp_model_info", version="2") == 1
        assert metric(client, "stripmlp_queue_limit") == 512


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({}, ADMIN),
        ({}, {}),
        ({"admin_token": TOKEN}, {}),
        ({"admin_token": TOKEN}, {"Authorization": "Bearer open"}),
        ({"admin_token": TOKEN}, {"Authorization": f"Bearer {TOKEN}s"}),
        ({"admin_token": TOKEN}, {"Authorization": TOKEN}),
        ({"admin_token": TOKEN}, {"Authorization": "Bearer"}),
        ({"admin_token": TOKEN}, {"Authorization": "Bearer ä".encode()}),
    ],
)
def test_a_request_without_the_token_reloads_nothing(
    colour_models: Path, settings: dict[str, str], headers: dict[str, Any]
) -> None:
    with live_service(colour_models, max_batch=1, **settings) as client:
        colours.save_served(colour_models, version=2)

        response = client.post("/models/reload", headers=headers)

        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "unauthorized"
        assert versions(client.get("/models").json()) == [1]


def test_polling_finds_a_new_version(colour_models: Path) -> None:
    with live_service(colour_models, max_batch=1, poll_seconds=0.05) as client:
        colours.save_served(colour_models, version=2)

        await_true(lambda: versions(client.get("/models").json()) == [2])


def test_a_version_is_replaced_in_place(colour_models: Path) -> None:
    with live_service(colour_models, **QUICK) as client:
        new = colours.save(colour_models / ".new", colours.artifact(labels=("rouge", "vert", "bleu")).model_dump_json())
        new.replace(colour_models / "colours/1/model.onnx")

        assert versions(reload(client)) == [1]
        assert label(client) == "rouge"


def test_a_file_that_did_not_change_is_not_loaded_again(colour_models: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with live_service(colour_models, **QUICK) as client:
        reload(client)
        reload(client)

    assert caplog.text.count("batches of up to") == 1


def test_new_models_come_and_removed_ones_go(colour_models: Path) -> None:
    with live_service(colour_models, **QUICK) as client:
        colours.save_served(colour_models, "shades")
        assert [model["name"] for model in reload(client)["models"]] == ["colours", "shades"]
        assert classify(client, png("red")).status_code == 400

        remove(colour_models, 1)
        assert [model["name"] for model in reload(client)["models"]] == ["shades"]
        assert classify(client, png("red")).json()["model"]["name"] == "shades"
        assert classify(client, png("red"), model="colours").status_code == 404
        assert metric(client, "stripmlp_queue_limit", model="colours") == 0


@pytest.mark.parametrize("spoil", BAD_FILES)
@pytest.mark.parametrize("repair", [colours.save_served, remove])
def test_a_bad_file_leaves_the_old_version_serving_until_it_is_repaired(
    colour_models: Path, spoil: Callable[[Path], None], repair: Callable[..., Any]
) -> None:
    with live_service(colour_models, **QUICK) as client:
        path = colour_models / "colours/2/model.onnx"
        spoil(path)

        answer = reload(client)

        assert versions(answer) == [1]
        (error,) = answer["errors"]
        assert (error["name"], error["version"]) == ("colours", 2)
        assert str(path.relative_to(colour_models)) in error["message"]
        assert str(colour_models) not in client.get("/models").text
        assert client.get("/models").json() == answer
        assert metric(client, "stripmlp_model_load_failed", model="colours", version="2") == 1
        assert label(client) == "red"
        assert client.get("/readyz").status_code == 200

        repair(colour_models, version=2)
        answer = reload(client)

        assert answer["errors"] == []
        assert versions(answer) == [1 if repair is remove else 2]
        assert metric(client, "stripmlp_model_load_failed") == 0
        assert label(client) == "red"


@pytest.mark.parametrize("spoil", BAD_FILES)
def test_a_served_file_that_is_overwritten_with_a_bad_one_goes_on_serving(
    colour_models: Path, spoil: Callable[[Path], None]
) -> None:
    with live_service(colour_models, **QUICK) as client:
        spoil(colour_models / "colours/1/model.onnx")

        answer = reload(client)

        assert versions(answer) == [1]
        assert [error["version"] for error in answer["errors"]] == [1]
        assert label(client) == "red"


def test_a_bad_file_drives_nothing_out_though_the_served_file_is_gone(colour_models: Path) -> None:
    with live_service(colour_models, **QUICK) as client:
        remove(colour_models, 1)
        break_file(colour_models / "colours/2/model.onnx")

        answer = reload(client)

        assert versions(answer) == [1]
        assert [error["version"] for error in answer["errors"]] == [2]
        assert label(client) == "red"


def test_a_bad_file_that_a_newer_version_made_needless_is_no_error_any_more(colour_models: Path) -> None:
    with live_service(colour_models, poll_seconds=0.05, **QUICK) as client:
        break_file(colour_models / "colours/2/model.onnx")
        await_metric(client, 1, "stripmlp_model_load_failed")

        colours.save_served(colour_models, version=3)

        await_metric(client, 1, "stripmlp_model_info", version="3")
        assert client.get("/models").json()["errors"] == []
        assert metric(client, "stripmlp_model_load_failed") == 0


def test_polling_tries_a_bad_file_once_and_asking_tries_it_again(
    colour_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with live_service(colour_models, poll_seconds=0.05, **QUICK) as client:
        break_file(colour_models / "colours/2/model.onnx")
        await_metric(client, 1, "stripmlp_model_load_failed")
        # A third version shows that the repository was looked at again.
        break_file(colour_models / "colours/3/model.onnx")
        await_metric(client, 2, "stripmlp_model_load_failed")
        assert caplog.text.count("colours version 2 is not served") == 1

        reload(client)
        assert caplog.text.count("colours version 2 is not served") == 2


def test_a_bad_newest_version_counts_not_among_those_that_are_kept(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        colours.save_served(tmp_path, version=version)
    break_file(tmp_path / "colours/4/model.onnx")

    with live_service(tmp_path, keep_versions=2, **QUICK) as client:
        answer = client.get("/models").json()

    assert versions(answer) == [2, 3]
    assert [error["version"] for error in answer["errors"]] == [4]


def test_the_newest_versions_are_kept_as_many_as_asked_for(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        colours.save_served(tmp_path, version=version)

    with live_service(tmp_path, keep_versions=2, **QUICK) as client:
        assert versions(client.get("/models").json()) == [2, 3]
        assert classify(client, png("red"), version=2).json()["model"]["version"] == 2
        assert classify(client, png("red"), version=1).status_code == 404

        colours.save_served(tmp_path, version=4)
        assert versions(reload(client)) == [3, 4]


def test_a_bad_newest_version_does_not_stand_in_the_way_of_the_start(colour_models: Path) -> None:
    break_file(colour_models / "colours/2/model.onnx")

    with live_service(colour_models, **QUICK) as client:
        answer = client.get("/models").json()
        assert versions(answer) == [1]
        assert [error["version"] for error in answer["errors"]] == [2]
        assert label(client) == "red"


def test_a_model_without_any_version_that_works_fails_the_start(colour_models: Path) -> None:
    break_file(colour_models / "broken/1/model.onnx")
    save_unproven(colour_models / "broken/2/model.onnx")

    assert "broken/" in str(failed_start(colour_models, **QUICK))


@pytest.mark.parametrize("folder", [".", "missing"])
def test_a_repository_without_models_fails_the_start(tmp_path: Path, folder: str) -> None:
    assert str(tmp_path) in str(failed_start(tmp_path / folder))


@pytest.mark.parametrize("spoil", ["emptied", "missing", "malformed"])
def test_a_repository_that_cannot_be_read_leaves_everything_as_it_was(tmp_path: Path, spoil: str) -> None:
    models = tmp_path / "models"
    colours.save_served(models)
    with live_service(models, **QUICK) as client:
        if spoil == "emptied":
            remove(models, 1)
        elif spoil == "missing":
            models.rename(tmp_path / "elsewhere")
        else:
            colours.save_served(models).parent.rename(models / "colours/first")

        answer = reload(client)

        assert versions(answer) == [1]
        assert answer["repository_error"]
        assert str(models) not in answer["repository_error"]
        assert metric(client, "stripmlp_repository_error") == 1
        assert client.get("/models").json() == answer
        assert label(client) == "red"
        assert client.get("/readyz").status_code == 200

        if spoil == "malformed":
            (models / "colours/first/model.onnx").unlink()
        colours.save_served(models, version=2)
        answer = reload(client)
        assert versions(answer) == [2]
        assert answer["repository_error"] is None
        assert metric(client, "stripmlp_repository_error") == 0


def test_a_request_is_answered_by_the_version_that_it_started_with(
    colour_models: Path, gate: Gate, in_thread: InThread, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with live_service(colour_models, **QUICK) as client:
        gate.close()
        held = in_thread(partial(classify, client, png("red")))
        assert gate.reached.wait(PATIENCE)
        colours.save_served(colour_models, version=2, labels=("rouge", "vert", "bleu"))
        remove(colour_models, 1)

        assert versions(reload(client)) == [2]
        assert client.get("/readyz").status_code == 200
        assert "unloaded" not in caplog.text

        gate.open.set()
        answer = held.result().json()
        await_true(lambda: bool(client.get("/healthz")) and "unloaded colours version 1" in caplog.text)
        assert answer["model"]["version"] == 1
        assert answer["results"][0]["predictions"][0]["label"] == "red"
        assert label(client) == "rouge"


def test_a_request_whose_body_is_still_arriving_keeps_its_version_too(
    colour_models: Path, in_thread: InThread, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with live_service(colour_models, **QUICK) as client:
        body = Trickle(png("red"))
        held = in_thread(lambda: client.post("/classify", content=body))
        await_metric(client, 2, "stripmlp_in_flight_requests")
        colours.save_served(colour_models, version=2)

        assert versions(reload(client)) == [2]
        assert client.get("/readyz").status_code == 200
        assert "unloaded" not in caplog.text

        body.go_on.set()
        assert held.result().json()["model"]["version"] == 1
        await_true(lambda: bool(client.get("/healthz")) and "unloaded colours version 1" in caplog.text)


def test_leaving_while_models_load_ends_the_loading(colour_models: Path) -> None:
    settings = Settings(models=colour_models, device="cpu")
    failures: list[StartupError] = []

    async def scenario() -> str | None:
        metrics, scheduler = Metrics(), Scheduler(1, 1)
        models = Models(settings, metrics, scheduler, Decoders(settings.decode_limits, metrics))
        async with Reloader(settings, models, scheduler, metrics, None, failures.append):
            await asyncio.sleep(0)  # the loading has begun
        await scheduler.close()
        return models.unready

    assert asyncio.run(scenario()) == "the service is shutting down"
    assert not failures
