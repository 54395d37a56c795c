"""A repository with the tiny model, pictures for it, and the command as a process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service import colours
from tests.service.pictures import png

Command = Callable[..., subprocess.CompletedProcess[str]]

COLOURS = ("red", "lime", "blue")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    colours.save_served(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Nine: a folder of three, in which two more folders have three each."""
    for number in range(9):
        path = tmp_path / "pictures" / ("", "b", "a")[number // 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(COLOURS[number % 3]))
    return tmp_path / "pictures"


def environment(models: Path) -> dict[str, str]:
    """Of a command that uses these models on the CPU."""
    own = {f"STRIPMLP_{field.upper()}" for field in Settings.model_fields}
    bare = {name: value for name, value in os.environ.items() if name not in own}
    return bare | {"STRIPMLP_MODELS": str(models), "STRIPMLP_DEVICE": "cpu", "STRIPMLP_BATCH_LIMIT": "4"}


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]


@pytest.fixture
def classify(models: Path) -> Command:
    """Runs `strip-mlp-classify` to its end."""

    def run(*arguments: object, given: str | bytes = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command("offline.classify", *arguments),
            env=environment(models),
            input=given.encode() if isinstance(given, str) else given,
            check=False,
            capture_output=True,
            timeout=120,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
