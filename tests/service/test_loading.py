"""Which files are served, and how they are measured first."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from service import loading, reloading
from service.errors import DeviceUnavailable, UnusableModel
from service.providers import CPU, CUDA, GpuOptions, cuda
from service.repository import find_models
from service.session import Session
from service.settings import Settings
from tests.service import colours
from tests.service.live import classify, failed_start, live_service
from tests.service.pictures import png
from tests.service.seeming_cuda import SeemingCuda

QUICK = Settings(max_batch=1)


def save_bounded(models: Path, largest_batch: int) -> None:
    """A model that refuses larger batches."""
    colours.save(models / "colours/1/model.onnx", colours.artifact().model_dump_json(), largest_batch=largest_batch)


@pytest.mark.parametrize("parity", [None, colours.parity(passed=False)])
def test_a_model_without_passed_parity_fails_the_start(colour_models: Path, parity: Any) -> None:
    """Though another model could be served."""
    colours.save_served(colour_models, "unproven", 1, parity=parity)

    failure = failed_start(colour_models, max_batch=1)

    assert isinstance(failure, UnusableModel)
    assert "parity" in str(failure)
    assert "unproven/1/model.onnx" in str(failure)


def test_a_model_that_cannot_run_the_largest_batch_fails_the_start(tmp_path: Path) -> None:
    save_bounded(tmp_path, 3)

    with live_service(tmp_path, max_batch=3) as client:
        assert classify(client, png("red")).status_code == 200
    failure = failed_start(tmp_path, max_batch=4)
    assert "colours/1/model.onnx failed to run batches of blank pictures" in str(failure)


def test_whatever_goes_wrong_in_loading_fails_the_start(
    colour_models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(reloading, "load_model", fail)

    assert str(failed_start(colour_models)) == f"loading {colour_models}/colours/1/model.onnx failed: no room"
    assert "MemoryError" in caplog.text


def test_a_file_that_changes_while_it_is_loaded_is_not_served(
    colour_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Session.open

    def open_and_change(path: Path, **options: Any) -> Session:
        session = opened(path, **options)
        colours.save_served(colour_models)
        return session

    monkeypatch.setattr(Session, "open", open_and_change)

    assert str(failed_start(colour_models, max_batch=1)).endswith("model.onnx changed while it was loaded")


def test_every_batch_size_is_measured_and_shown(colour_models: Path) -> None:
    with live_service(colour_models, max_batch=5) as client:
        (model,) = client.get("/models").json()["models"]

    assert [each["batch"] for each in model["batch_curve"]] == [1, 2, 4, 5]
    assert all(each["seconds"] > 0 and each["pictures_per_second"] > 0 for each in model["batch_curve"])
    assert model["batch_limit"] in (1, 2, 4, 5)


def test_a_batch_limit_that_is_set_is_the_last_size_that_is_measured(colour_models: Path) -> None:
    with live_service(colour_models, batch_limit=3, max_batch=16) as client:
        (model,) = client.get("/models").json()["models"]

    assert model["batch_limit"] == 3
    assert [each["batch"] for each in model["batch_curve"]] == [1, 2, 3]


def test_a_file_that_is_another_model_now_is_not_opened_anew(colour_models: Path) -> None:
    (file,) = find_models(colour_models)["colours"]
    before = Session.open(file.path, device="cpu", threads=1)
    colours.save(file.path, colours.artifact(labels=("blue", "green", "red")).model_dump_json())

    with pytest.raises(UnusableModel, match="is another model now"):
        loading._reopen(file, "cpu", QUICK, before)


def test_a_session_is_not_opened_anew_on_another_provider(colour_models: Path) -> None:
    """With `--device auto` it would otherwise fall back to the CPU unseen."""
    (file,) = find_models(colour_models)["colours"]
    before = Session.open(file.path, device="cpu", threads=1)

    assert loading._reopen(file, "auto", QUICK, before).provider == before.provider
    with pytest.raises(DeviceUnavailable, match="ran on CUDA, which does not work any more"):
        loading._reopen(file, "auto", QUICK, dataclasses.replace(before, provider="CUDA"))


def test_on_a_gpu_models_are_proven_timed_and_served(colour_models: Path, seeming_cuda: SeemingCuda) -> None:
    with live_service(colour_models, device="cuda", tf32=True, max_batch=3) as client:
        (model,) = client.get("/models").json()["models"]
        answer = classify(client, png("red"), png("green"), png("blue"))

    assert model["provider"] == CUDA
    assert [result["predictions"][0]["label"] for result in answer.json()["results"]] == ["red", "green", "blue"]
    # The second session is the CPU's, for the proof.
    assert seeming_cuda.asked == [[cuda("cuda", GpuOptions(tf32=True)), (CPU, {})], [(CPU, {})]]


def test_a_model_that_answers_otherwise_on_a_gpu_fails_the_start(
    colour_models: Path, seeming_cuda: SeemingCuda
) -> None:
    seeming_cuda.error = 1.5

    failure = failed_start(colour_models, device="cuda", max_batch=2)

    assert isinstance(failure, UnusableModel)
    assert "answers differently on CUDAExecutionProvider than on the CPU" in str(failure)


def test_a_session_that_is_opened_anew_is_proven_anew(colour_models: Path, seeming_cuda: SeemingCuda) -> None:
    (file,) = find_models(colour_models)["colours"]
    before = Session.open(file.path, device="cuda", threads=1)

    assert loading._reopen(file, "cuda", QUICK, before).provider == CUDA
    seeming_cuda.error = 1.5
    with pytest.raises(UnusableModel, match="answers differently"):
        loading._reopen(file, "cuda", QUICK, before)
