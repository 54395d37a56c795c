"""Loading, finding and unloading the served models."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service import models as module
from service.errors import BadRequest, ModelNotFound, NotReady, Overloaded, StartupError, UnusableModel
from service.metrics import Metrics
from service.models import Models
from service.repository import ModelFile
from service.session import Session
from service.settings import Settings
from tests.service import colours


@asynccontextmanager
async def loaded(
    folder: Path, failures: list[StartupError], metrics: Metrics | None = None, **settings: Any
) -> AsyncIterator[Models]:
    """Models that have finished loading, with or without success."""
    wanted = Settings(models=folder, device="cpu", threads=1, **settings)
    async with Models(wanted, metrics or Metrics(), failures.append) as models:
        assert models._loading
        await asyncio.wait([models._loading])
        yield models


def found(folder: Path, *names: tuple[str | None, int | None], **settings: Any) -> list[Any]:
    """What is found by these names and versions: a (name, version) or an error."""

    def find(models: Models, name: str | None, version: int | None) -> Any:
        try:
            file = models.find(name, version).file
        except (BadRequest, ModelNotFound) as error:
            return error
        return file.name, file.version

    async def scenario() -> list[Any]:
        failures: list[StartupError] = []
        async with loaded(folder, failures, **settings) as models:
            assert not failures
            return [find(models, *each) for each in names]

    return asyncio.run(scenario())


def failure(folder: Path, **settings: Any) -> StartupError:
    """Why the models cannot be served; they never get ready then, and say the same."""

    async def scenario() -> StartupError:
        failures: list[StartupError] = []
        async with loaded(folder, failures, **settings) as models:
            assert len(failures) == 1
            with pytest.raises(NotReady) as refusal:
                models.require_ready()
            with pytest.raises(NotReady):
                models.find(None, None)
            assert str(refusal.value) == str(failures[0])
            return failures[0]

    return asyncio.run(scenario())


def test_one_model_needs_no_name_and_its_newest_version_no_number(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        colours.save_served(tmp_path, "colours", version)

    assert found(tmp_path, (None, None), ("", None), ("colours", None), (None, 9), ("colours", 2)) == [
        ("colours", 10),
        ("colours", 10),
        ("colours", 10),
        ("colours", 9),
        ("colours", 2),
    ]


def test_several_models_need_a_name_or_a_default(tmp_path: Path) -> None:
    colours.save_served(tmp_path, "a")
    colours.save_served(tmp_path, "b")

    (nameless,) = found(tmp_path, (None, None))
    assert isinstance(nameless, BadRequest)
    assert str(nameless) == "several models are served, name one with ?model=: a, b"
    assert found(tmp_path, (None, None), ("a", None), default_model="b") == [("b", 1), ("a", 1)]


def test_unknown_models_and_versions_are_told_what_there_is(tmp_path: Path) -> None:
    colours.save_served(tmp_path, "a", 1)
    colours.save_served(tmp_path, "b", 2)
    colours.save_served(tmp_path, "b", 3)

    name, version = found(tmp_path, ("c", None), ("b", 1))

    assert (type(name), str(name)) == (ModelNotFound, "no model 'c' is served; there are a, b")
    assert (type(version), str(version)) == (ModelNotFound, "model 'b' has no version 1; there are 2, 3")


def test_a_missing_repository_fails_the_start(tmp_path: Path) -> None:
    assert isinstance(failure(tmp_path / "missing"), UnusableModel)


def test_a_default_that_is_not_served_fails_the_start(colour_models: Path) -> None:
    assert "--default-model shades is not in the model repository" in str(
        failure(colour_models, default_model="shades")
    )


@pytest.mark.parametrize("parity", [None, colours.parity(passed=False)])
def test_a_model_without_passed_parity_fails_the_start(colour_models: Path, parity: Any) -> None:
    """Though another model could be served."""
    colours.save_served(colour_models, "unproven", 1, parity=parity)

    error = failure(colour_models)

    assert isinstance(error, UnusableModel)
    assert "parity" in str(error)
    assert "unproven/1/model.onnx" in str(error)


def test_a_model_that_cannot_run_the_largest_batch_fails_the_start(tmp_path: Path) -> None:
    colours.save(tmp_path / "single/1/model.onnx", colours.artifact().model_dump_json(), largest_batch=3)

    assert found(tmp_path, (None, None), max_batch=3) == [("single", 1)]
    assert "failed to run a batch of 4 pictures" in str(failure(tmp_path, max_batch=4))


def test_whatever_goes_wrong_in_loading_fails_the_start(
    colour_models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(file: ModelFile, settings: Settings) -> Session:
        raise MemoryError("no room")

    monkeypatch.setattr(module, "_open_and_warm", fail)

    assert str(failure(colour_models)) == "loading the models failed: no room"
    assert "MemoryError" in caplog.text


def test_models_are_not_ready_before_and_after(colour_models: Path) -> None:
    settings = Settings(models=colour_models, device="cpu", threads=1)
    failures: list[StartupError] = []

    async def scenario() -> None:
        async with Models(settings, Metrics(), failures.append) as models:
            with pytest.raises(NotReady, match="models are being loaded"):
                models.require_ready()
            assert models._loading
            await models._loading
            models.require_ready()
            queue = models.find(None, None).queue
            assert queue.alive
        with pytest.raises(NotReady, match="the service is shutting down"):
            models.require_ready()
        assert not queue.alive

    asyncio.run(scenario())
    assert not failures


def test_leaving_while_models_load_ends_the_loading(colour_models: Path) -> None:
    settings = Settings(models=colour_models, device="cpu", threads=1)
    failures: list[StartupError] = []

    async def scenario() -> Models:
        async with Models(settings, Metrics(), failures.append) as models:
            await asyncio.sleep(0)  # the loading has begun
        return models

    models = asyncio.run(scenario())

    with pytest.raises(NotReady, match="shutting down"):
        models.find(None, None)
    assert not failures


def test_a_model_whose_batching_died_is_not_ready(tmp_path: Path) -> None:
    colours.save_served(tmp_path, "a")
    colours.save_served(tmp_path, "b")

    async def scenario() -> None:
        async with loaded(tmp_path, []) as models:
            worker = models.find("b", None).queue._worker
            assert worker
            worker.cancel()
            await asyncio.wait([worker])
            with pytest.raises(NotReady, match="the batching of model b died"):
                models.find("a", None)

    asyncio.run(scenario())


def test_room_is_made_up_to_the_limit_and_given_back(colour_models: Path) -> None:
    async def scenario() -> None:
        async with loaded(colour_models, [], max_queue=4, max_images=4) as models:
            model = models.find(None, None)
            model.admit(3)
            with pytest.raises(Overloaded, match="has 3 pictures in work, 2 more would pass the limit of 4"):
                model.admit(2)
            model.admit(1)
            assert model.in_work == 4
            model.release(3)
            model.admit(3)

    asyncio.run(scenario())


def test_metrics_describe_the_models(tmp_path: Path) -> None:
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    colours.save_served(tmp_path, "colours", 1)
    colours.save_served(tmp_path, "colours", 2)
    info = {"model": "colours", "provider": "CPUExecutionProvider", "precision": "fp32", "checkpoint_sha256": "c0" * 32}

    async def scenario() -> None:
        async with loaded(tmp_path, [], metrics, max_queue=200) as models:
            models.find(None, 1).admit(3)
            models.find(None, 2).admit(4)
            assert value("stripmlp_queue_images", {"model": "colours"}) == 7

    asyncio.run(scenario())

    assert value("stripmlp_queue_limit", {"model": "colours"}) == 2 * 200
    for version in ("1", "2"):
        assert value("stripmlp_model_info", info | {"version": version}) == 1
        assert value("stripmlp_model_parity_max_abs_error", {"model": "colours", "version": version}) == 0.25
