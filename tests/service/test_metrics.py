"""What the metrics count."""

import asyncio
import threading
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.artifact import Preprocessing
from service.decoders import Decoders
from service.errors import Outcome
from service.metrics import Metrics
from service.models import Models
from service.preprocessing import Pixels
from service.scheduling import Scheduler
from service.settings import Settings
from tests.service import colours
from tests.service.conftest import Gate, InThread
from tests.service.live import PATIENCE, classify, listening_service, live_service, metric
from tests.service.pictures import png


def test_everything_is_counted_once(colour_models: Path) -> None:
    with live_service(colour_models) as client:
        assert classify(client, png("red"), b"no picture", png("blue")).status_code == 200
        assert client.post("/classify", content=b"no picture").status_code == 415
        assert client.post("/classify?model=rainbow", content=png("red")).status_code == 404

        def images(outcome: str) -> float:
            return metric(client, "stripmlp_images_total", model="colours", version="1", outcome=outcome)

        def stage(name: str) -> float:
            return metric(client, "stripmlp_stage_duration_seconds_count", model="colours", stage=name)

        assert [images(outcome) for outcome in ("ok", "invalid", "refused", "failed")] == [2, 2, 0, 0]
        assert [stage(name) for name in ("read", "decode", "queue", "encode")] == [2, 2, 2, 2]
        assert 1 <= stage("infer") == metric(client, "stripmlp_batch_size_count", model="colours") <= 2
        assert metric(client, "stripmlp_batch_size_sum", model="colours") == 2
        for code, count in {"200": 1, "415": 1, "404": 1}.items():
            assert metric(client, "stripmlp_requests_total", endpoint="/classify", code=code) == count
        assert metric(client, "stripmlp_request_duration_seconds_count", endpoint="/classify") == 3
        assert metric(client, "stripmlp_queue_images", model="colours") == 0
        assert metric(client, "stripmlp_queue_limit", model="colours") == 512
        assert metric(client, "stripmlp_model_info", model="colours", version="1", checkpoint_sha256="c0" * 32) == 1
        assert metric(client, "stripmlp_model_parity_max_abs_error", model="colours", version="1") == 0.25


def test_the_metrics_say_how_models_were_loaded_and_whether_the_service_is_ready(colour_models: Path) -> None:
    with live_service(colour_models, admin_token="t") as client:
        assert metric(client, "stripmlp_ready") == 1
        assert metric(client, "stripmlp_model_loads_total", model="colours", outcome="ok") == 1
        assert metric(client, "stripmlp_cuda_expected") == 0

        bad = colour_models / "colours" / "2" / "model.onnx"
        bad.parent.mkdir()
        bad.write_bytes(b"no model")
        client.post("/models/reload", headers={"Authorization": "Bearer t"})

        assert metric(client, "stripmlp_model_loads_total", model="colours", outcome="failed") == 1
        assert metric(client, "stripmlp_model_loads_total", model="colours", outcome="ok") == 1
        assert metric(client, "stripmlp_ready") == 1


def test_the_metrics_say_that_cuda_was_asked_for(colour_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.app.expects_cuda", lambda device: device == "cpu")
    with live_service(colour_models, device="cpu") as client:
        assert metric(client, "stripmlp_cuda_expected") == 1


def test_a_service_that_is_about_to_end_is_not_ready(tmp_path: Path) -> None:
    settings, metrics, scheduler = Settings(models=tmp_path), Metrics(), Scheduler(1, 1)
    models = Models(settings, metrics, scheduler, Decoders(settings.decode_limits, metrics))

    def ready() -> float | None:
        models.update_gauges()
        return metrics.registry.get_sample_value("stripmlp_ready")

    assert ready() == 0
    models.unready = None
    assert ready() == 1
    models.draining = True
    assert ready() == 0
    asyncio.run(scheduler.close())


def test_a_series_that_is_forgotten_is_gone() -> None:
    metrics = Metrics()
    metrics.queue_limit.labels("m").set(5)
    metrics.queue_limit.labels("n").set(7)

    metrics.forget(metrics.queue_limit, "m")

    (family,) = [family for family in metrics.registry.collect() if family.name == "stripmlp_queue_limit"]
    assert [sample.labels for sample in family.samples] == [{"model": "n"}]


def test_a_service_without_models_is_not_ready(tmp_path: Path) -> None:
    with listening_service(tmp_path, lambda _: None) as client:
        assert metric(client, "stripmlp_ready") == 0


def test_predictions_are_counted_by_label_with_their_probability(colour_models: Path) -> None:
    with live_service(colour_models) as client:
        assert metric(client, "stripmlp_predictions_total", label="blue") == 0
        answer = classify(client, png("red"), png("blue"), png("red"), b"no picture").json()

        for label, count in (("red", 2), ("green", 0), ("blue", 1)):
            assert metric(client, "stripmlp_predictions_total", model="colours", label=label) == count
        assert metric(client, "stripmlp_top1_probability_count", model="colours") == 3
        probabilities = [each["predictions"][0]["probability"] for each in answer["results"] if "predictions" in each]
        assert metric(client, "stripmlp_top1_probability_sum", model="colours") == pytest.approx(sum(probabilities))


@pytest.mark.parametrize(("labels", "series"), [(200, 200), (201, 0)])
def test_models_of_many_classes_have_no_series_for_each(labels: int, series: int) -> None:
    metrics = Metrics()
    of_model = metrics.of_model("m", 1, [f"label {number}" for number in range(labels)])

    of_model.count_prediction(0, 0.5)

    (family,) = [each for each in metrics.registry.collect() if each.name == "stripmlp_predictions"]
    assert len(family.samples) == series
    assert metrics.registry.get_sample_value("stripmlp_top1_probability_count", {"model": "m"}) == 1


def test_pictures_that_are_being_decoded_are_shown(
    colour_models: Path, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()

    read = Decoders.read_pixels

    async def hold(decoders: Decoders, data: bytes, preprocessing: Preprocessing) -> Pixels:
        entered.set()
        assert await asyncio.to_thread(release.wait, PATIENCE)
        return await read(decoders, data, preprocessing)

    monkeypatch.setattr(Decoders, "read_pixels", hold)
    with live_service(colour_models) as client:
        assert metric(client, "stripmlp_decode_busy_threads") == 0
        answer = in_thread(lambda: classify(client, png("red")))
        assert entered.wait(PATIENCE)
        assert metric(client, "stripmlp_decode_busy_threads") == 1

        release.set()
        assert answer.result().status_code == 200
        assert metric(client, "stripmlp_decode_busy_threads") == 0


def test_a_run_is_no_decode(colour_models: Path, gate: Gate, in_thread: InThread) -> None:
    with live_service(colour_models) as client:
        gate.close()
        answer = in_thread(lambda: classify(client, png("red")))
        assert gate.reached.wait(PATIENCE)

        assert metric(client, "stripmlp_decode_busy_threads") == 0
        gate.open.set()
        assert answer.result().status_code == 200


def test_what_is_under_way_is_shown(colour_models: Path, gate: Gate, in_thread: InThread) -> None:
    with live_service(colour_models) as client:
        gate.close()
        answer = in_thread(lambda: classify(client, png("red"), png("red")))
        assert gate.reached.wait(PATIENCE)

        assert metric(client, "stripmlp_queue_images") == 2
        assert metric(client, "stripmlp_in_flight_requests") == 2  # the scrape is the other
        gate.open.set()
        assert answer.result().status_code == 200
        assert metric(client, "stripmlp_queue_images") == 0
        assert metric(client, "stripmlp_in_flight_requests") == 1


def test_invented_paths_share_one_label(colour_models: Path) -> None:
    with live_service(colour_models) as client:
        for place in range(5):
            assert client.get(f"/invented/{place}").status_code == 404

        families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}

    counts = {
        (sample.labels["endpoint"], sample.labels["code"]): sample.value
        for sample in families["stripmlp_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counts[("none", "404")] == 5
    assert {endpoint for endpoint, _ in counts} == {"none", "/readyz"}


def test_the_scrape_is_prometheus_text_with_the_process_in_it(colour_models: Path) -> None:
    with live_service(colour_models) as client:
        response = client.get("/metrics")

    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert not any(name.endswith("_created") for name in names)
    assert {"process_resident_memory_bytes", "python_gc_collections", "stripmlp_batch_size"} <= names
    assert "python_info" not in names  # what is told of versions helps attackers


def test_two_services_in_one_process_count_apart(tmp_path: Path) -> None:
    colours.save_served(tmp_path)
    with live_service(tmp_path) as first, live_service(tmp_path) as second:
        classify(first, png("red"))

        assert metric(first, "stripmlp_images_total") == 1
        assert metric(second, "stripmlp_images_total") == 0


@pytest.mark.parametrize(("largest", "histogram"), [(32.768, "request_seconds"), (512, "batch_size")])
def test_buckets_reach_far_enough(largest: float, histogram: str) -> None:
    assert getattr(Metrics(), histogram)._kwargs["buckets"][-1] == largest


def test_a_versions_pictures_are_counted_by_outcome_from_zero() -> None:
    metrics = Metrics()
    of_model = metrics.of_model("m", 7, [])

    def counted(outcome: str) -> float | None:
        labels = {"model": "m", "version": "7", "outcome": outcome}
        return metrics.registry.get_sample_value("stripmlp_images_total", labels)

    assert [counted(outcome) for outcome in get_args(Outcome)] == [0] * 6
    of_model.count("ok")
    of_model.count("expired", 3)
    assert {outcome: counted(outcome) for outcome in get_args(Outcome) if counted(outcome)} == {"ok": 1, "expired": 3}


def test_versions_of_a_model_share_all_but_what_became_of_their_pictures() -> None:
    metrics = Metrics()
    for version in 1, 2:
        of_model = metrics.of_model("m", version, [])
        of_model.count("ok")
        of_model.padding.inc()
        of_model.batch_size.observe(1)
        of_model.stage_seconds["queue"].observe(1)

    value = metrics.registry.get_sample_value
    assert value("stripmlp_images_total", {"model": "m", "version": "2", "outcome": "ok"}) == 1
    assert value("stripmlp_batch_padding_total", {"model": "m"}) == 2
    assert value("stripmlp_batch_size_count", {"model": "m"}) == 2
    assert value("stripmlp_stage_duration_seconds_count", {"model": "m", "stage": "queue"}) == 2
