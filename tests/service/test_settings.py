"""Where settings come from, and which are refused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.settings import USABLE_CPUS, Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"STRIPMLP_{field.upper()}", raising=False)


def test_defaults() -> None:
    assert Settings().model_dump() == {
        "models": Path("weights/models"),
        "default_model": None,
        "host": "127.0.0.1",
        "port": 8000,
        "device": "auto",
        "threads": USABLE_CPUS,
        "decode_threads": USABLE_CPUS,
        "max_batch": 32,
        "max_queue": 512,
        "max_images": 128,
        "max_request_mb": 64,
        "max_image_mb": 20,
        "max_body_seconds": 60,
        "shutdown_seconds": 30,
        "max_pixels": 50_000_000,
        "log_level": "info",
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
        ("threads", 0),
        ("decode_threads", 0),
        ("max_batch", 0),
        ("max_queue", 0),
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


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Settings.model_validate({"max_batches": 8})


def test_a_largest_request_that_never_fits_the_queue_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_images is 9, but max_queue only 8"):
        Settings(max_images=9, max_queue=8)
    assert Settings(max_images=8, max_queue=8).max_images == 8


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # what is tried is wrong
