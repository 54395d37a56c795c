"""Finding the served models by name and version, and what the metrics say of them."""

from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.service import colours
from tests.service.conftest import Gate, InThread
from tests.service.live import PATIENCE, classify, failed_start, live_service, metric
from tests.service.pictures import png


def found(client: httpx.Client, **query: Any) -> tuple[str, int]:
    """Name and version of the model that answers."""
    response = classify(client, png("red"), **query)
    assert response.status_code == 200, response.text
    model = response.json()["model"]
    return model["name"], model["version"]


def refused(client: httpx.Client, **query: Any) -> tuple[int, str]:
    """Status and message where none answers."""
    response = classify(client, png("red"), **query)
    return response.status_code, response.json()["detail"]


def test_one_model_needs_no_name_and_its_newest_version_no_number(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        colours.save_served(tmp_path, "colours", version)

    with live_service(tmp_path, keep_versions=3, max_batch=1) as client:
        assert found(client) == ("colours", 10)
        assert found(client, model="") == ("colours", 10)
        assert found(client, model="colours") == ("colours", 10)
        assert found(client, version=9) == ("colours", 9)
        assert found(client, model="colours", version=2) == ("colours", 2)


def test_several_models_need_a_name_or_a_default(tmp_path: Path) -> None:
    colours.save_served(tmp_path, "a")
    colours.save_served(tmp_path, "b")

    with live_service(tmp_path, max_batch=1) as client:
        assert refused(client) == (400, "several models are served, name one with ?model=: a, b")
    with live_service(tmp_path, max_batch=1, default_model="b") as client:
        assert found(client) == ("b", 1)
        assert found(client, model="a") == ("a", 1)


def test_unknown_models_and_versions_are_told_what_there_is(tmp_path: Path) -> None:
    colours.save_served(tmp_path, "a", 1)
    colours.save_served(tmp_path, "b", 2)
    colours.save_served(tmp_path, "b", 3)

    with live_service(tmp_path, keep_versions=2, max_batch=1) as client:
        assert refused(client, model="c") == (404, "no model 'c' is served; there are a, b")
        assert refused(client, model="b", version=1) == (404, "model 'b' has no version 1; there are 2, 3")


def test_a_default_that_is_not_served_fails_the_start(colour_models: Path) -> None:
    failure = failed_start(colour_models, default_model="shades", max_batch=1)

    assert "--default-model shades is not in the model repository" in str(failure)


def test_metrics_describe_the_models(tmp_path: Path, gate: Gate, in_thread: InThread) -> None:
    colours.save_served(tmp_path, "colours", 1)
    colours.save_served(tmp_path, "colours", 2)
    info = {"model": "colours", "provider": "CPUExecutionProvider", "precision": "fp32", "checkpoint_sha256": "c0" * 32}

    with live_service(tmp_path, keep_versions=2, max_queue=200, max_batch=1) as client:
        gate.close()
        answers = [in_thread(partial(classify, client, png("red"), png("blue"), version=each)) for each in (1, 2)]
        assert gate.reached.wait(PATIENCE)
        held = in_thread(partial(classify, client, png("red"), version=1))
        while metric(client, "stripmlp_queue_images", model="colours") < 5:
            assert not held.done()
        assert metric(client, "stripmlp_queue_images") == 5
        gate.open.set()
        assert {answer.result().status_code for answer in [*answers, held]} == {200}

        assert metric(client, "stripmlp_queue_images", model="colours") == 0
        assert metric(client, "stripmlp_queue_limit", model="colours") == 2 * 200
        for version in ("1", "2"):
            assert metric(client, "stripmlp_model_info", version=version, **info) == 1
            labels = {"model": "colours", "version": version}
            assert metric(client, "stripmlp_model_parity_max_abs_error", **labels) == 0.25
