"""Where settings come from, and which are refused."""

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service import settings as settings_module
from service.session import Session
from service.settings import Settings
from tests.service.live import live_service


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"STRIPMLP_{field.upper()}", raising=False)


def test_defaults() -> None:
    assert Settings().model_dump() == {
        "models": Path("weights/models"),
        "default_model": None,
        "keep_versions": 1,
        "poll_seconds": 5,
        "admin_token": None,
        "api_keys_file": None,
        "host": "127.0.0.1",
        "admin_port": None,
        "admin_host": None,
        "max_connections": 1000,
        "header_seconds": 10,
        "decode_seconds": 10,
        "port": 8000,
        "workers": 1,
        "device": "auto",
        "tf32": False,
        "cuda_graphs": False,
        "engine_cache": None,
        "grpc_port": None,
        "instances": None,
        "threads": 1,
        "decode_threads": None,
        "max_batch": 32,
        "batch_limit": None,
        "latency_budget_ms": 500,
        "max_queue": 512,
        "max_queue_mb": 256,
        "timeout_ms": 30_000,
        "max_timeout_ms": 120_000,
        "max_images": 128,
        "max_request_mb": 64,
        "max_image_mb": 20,
        "max_body_seconds": 60,
        "max_pixels": 50_000_000,
        "exact_decode": False,
        "stall_seconds": 60,
        "drain_seconds": 5,
        "shutdown_seconds": 30,
        "log_level": "info",
        "log_format": "auto",
        "log_filenames": False,
        "tracing": False,
    }


def test_environment_overrides_defaults_and_the_command_line_overrides_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPMLP_MAX_BATCH", "8")
    monkeypatch.setenv("STRIPMLP_PORT", "1234")

    settings = CliApp.run(Settings, cli_args=["--max-batch", "16"])

    assert (settings.max_batch, settings.port, settings.max_queue) == (16, 1234, 512)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("device", "gpu"),
        ("keep_versions", 0),
        ("poll_seconds", -1),
        ("admin_token", ""),
        ("workers", 0),
        ("instances", 0),
        ("threads", 0),
        ("decode_threads", 0),
        ("max_batch", 0),
        ("batch_limit", 0),
        ("latency_budget_ms", 0),
        ("max_queue", 0),
        ("max_queue_mb", 0),
        ("timeout_ms", 0),
        ("max_timeout_ms", 0),
        ("max_body_seconds", 0),
        ("max_connections", 0),
        ("header_seconds", 0),
        ("decode_seconds", 0),
        ("admin_port", 65536),
        ("stall_seconds", 0),
        ("drain_seconds", -1),
        ("shutdown_seconds", 0),
        ("max_images", -1),
        ("max_request_mb", 0),
        ("max_image_mb", 0),
        ("max_pixels", 0),
        ("log_level", "loud"),
    ],
)
def test_senseless_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(**{field: value})

    assert refusal.value.errors()[0]["loc"] == (field,)


def test_administration_has_a_port_of_its_own() -> None:
    with pytest.raises(ValidationError, match="admin_port is 8001, which is the port of all others"):
        Settings(port=8001, admin_port=8001)

    assert Settings(port=0, admin_port=0).admin_port == 0  # two that the system chooses


@pytest.mark.parametrize("device", ["cuda:0,1", "cuda:x", "xcpu", "cpu,cpu", "cpu\n"])
def test_a_device_of_which_only_a_part_makes_sense_is_refused(device: str) -> None:
    with pytest.raises(ValidationError):
        Settings(device=device)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Settings.model_validate({"max_batches": 8})


@pytest.mark.parametrize(
    ("small", "large", "what"),
    [
        ("max_images", "max_queue", "such a request never fits"),
        ("max_request_mb", "max_queue_mb", "such a request never fits"),
        ("timeout_ms", "max_timeout_ms", "a request may not ask for the default"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(small: str, large: str, what: str) -> None:
    with pytest.raises(ValidationError, match=f"{small} is 9, but {large} only 8: {what}"):
        Settings.model_validate({small: 9, large: 8})
    assert Settings.model_validate({small: 8, large: 8}).model_dump()[small] == 8


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:0,cuda:3"])
def test_devices_may_be_several(device: str) -> None:
    assert Settings(device=device).device == device


@pytest.mark.parametrize(("usable", "workers", "cores"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1), (1, 1, 1)])
def test_workers_share_the_cores(usable: int, workers: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "usable_cpus", lambda: usable)

    assert Settings(workers=workers).cores == cores


def test_the_token_is_not_shown() -> None:
    settings = Settings(admin_token="the secret")

    assert "the secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == "the secret"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().__setattr__("port", 1)


def test_the_latency_budget_bounds_the_batch(colour_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 1, 2, 4 and 8 pictures take 6, 7, 9 and 13 ms of CPU time: larger batches give more throughput."""

    def burn(_: Session, batch: int) -> None:
        until = time.thread_time() + (5 + batch) / 1000
        while time.thread_time() < until:
            pass

    monkeypatch.setattr(Session, "probe", burn)
    with live_service(colour_models, max_batch=8, latency_budget_ms=11, instances=1) as client:
        (model,) = client.get("/models").json()["models"]
    with live_service(colour_models, max_batch=8, instances=1) as client:
        (unbounded,) = client.get("/models").json()["models"]

    assert [each["batch"] for each in model["batch_curve"]] == [1, 2, 4, 8]
    assert (model["batch_limit"], unbounded["batch_limit"]) == (4, 8)
