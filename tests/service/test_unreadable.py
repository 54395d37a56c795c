"""What a service does whose user may not read the repository, or a part of it."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.service import colours
from tests.service.live import await_metric, await_true, classify, metric
from tests.service.pictures import png
from tests.service.processes import COMMAND, ended, running
from tests.service.test_reloading import ADMIN, TOKEN, label, reload, versions

SETPRIV = shutil.which("setpriv")

FOLDERS = [".", "..", "colours", "colours/1"]
"""Seen from the repository."""


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Takes away everybody's right to read it, and to look into it."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


@pytest.fixture
def powerless(tmp_path: Path) -> Sequence[str]:
    """Starts the service as a user for whom the rights of files hold: this one, without root's power over them."""
    powerless = [SETPRIV, "--bounding-set=-dac_override,-dac_read_search"] if SETPRIV and os.geteuid() == 0 else []
    closed = tmp_path / "closed"
    closed.mkdir()
    with unreadable(closed):
        if subprocess.run([*powerless, "test", "!", "-r", str(closed)], check=False).returncode != 0:
            pytest.skip("this user may read everything, and setpriv cannot take that away: apt-get install util-linux")
    return [*powerless, *COMMAND]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of two models, in a folder of its own."""
    folder = tmp_path / "its own" / "models"
    for name in ("colours", "shades"):
        colours.save_served(folder, name)
    return folder


@pytest.mark.parametrize("place", FOLDERS)
def test_what_cannot_be_read_any_more_is_served_on(powerless: Sequence[str], models: Path, place: str) -> None:
    options = ["--models", str(models), "--max-batch", "1", "--admin-token", TOKEN, "--default-model", "colours"]
    with running(*options, command=powerless) as (process, client):
        with unreadable(models / place):
            answer = reload(client)
            for _ in range(2):
                reload(client)

            assert [model["name"] for model in answer["models"]] == ["colours", "shades"]
            assert "cannot be read: Permission denied" in answer["repository_error"]
            assert client.get("/models").json() == answer
            assert metric(client, "stripmlp_repository_error") == 1
            assert label(client) == "red"
            assert classify(client, png("red"), model="shades").status_code == 200
            assert client.get("/readyz").status_code == 200
            load = client.post("/v2/repository/models/colours/load", headers=ADMIN)
            assert load.status_code == 500
            assert "Permission denied" in load.json()["error"]
            assert "its own" not in load.text + client.get("/models").text
        assert process.messages.count("the models stay as they are") == 1
        assert f"{(models / place).resolve()}" in process.messages
        assert "Traceback" not in process.messages

        colours.save_served(models, version=2)
        answer = reload(client)
        assert versions(answer) == [2, 1]
        assert answer["repository_error"] is None
        assert metric(client, "stripmlp_repository_error") == 0


def test_a_version_that_cannot_be_read_waits_until_it_can(powerless: Sequence[str], models: Path) -> None:
    """Its rights alone have to change for that, which changes neither its content nor its age."""
    options = ["--models", str(models), "--max-batch", "1", "--poll-seconds", "0.05", "--default-model", "colours"]
    with running(*options, command=powerless) as (_, client):
        coming = colours.save(models / ".coming", colours.artifact(labels=("rouge", "vert", "bleu")).model_dump_json())
        new = models / "colours/2/model.onnx"
        new.parent.mkdir()
        with unreadable(coming):
            coming.rename(new)
            await_metric(client, 1, "stripmlp_model_load_failed", model="colours", version="2")
            (error,) = client.get("/models").json()["errors"]
            assert error["message"] == "colours/2/model.onnx cannot be loaded: Permission denied"
            assert label(client) == "red"
            coming.symlink_to(new)  # where its rights are given back

        await_true(lambda: label(client) == "rouge")
        assert client.get("/models").json()["errors"] == []


@pytest.mark.parametrize(
    ("place", "workers"), [(".", "1"), ("..", "1"), ("colours", "2"), ("colours/1", "1"), ("colours/1/model.onnx", "1")]
)
def test_what_cannot_be_read_fails_the_start(powerless: Sequence[str], models: Path, place: str, workers: str) -> None:
    with unreadable(models / place):
        options = ("--models", str(models), "--port", "0", "--device", "cpu", "--workers", workers)
        done = ended(*options, command=powerless)

    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert str((models / place).resolve()) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_a_models_need_not_be_readable(powerless: Sequence[str], models: Path) -> None:
    """A file system may have its own at its root."""
    others = [models / "lost+found", models / ".snapshots", models / "colours/old"]
    for other in others:
        other.mkdir()
    with ExitStack() as closed:
        for other in others:
            closed.enter_context(unreadable(other))
        with running("--models", str(models), "--admin-token", TOKEN, command=powerless) as (_, client):
            answer = reload(client)
    assert answer["repository_error"] is None
    assert len(answer["models"]) == 2
