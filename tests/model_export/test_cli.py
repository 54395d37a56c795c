import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from typer.testing import CliRunner, Result

from model_export import export as export_module
from model_export.cli import main
from model_export.labels import KNOWN
from model_export.network import StripMLP
from model_export.sample_pictures import EncodedPicture
from model_export.simplify import SimplifiedNetwork, simplify
from service.artifact import ParityReport, Preprocessing
from service.session import Session
from tests.conftest import REPOSITORY
from tests.model_export.checkpoints import SMALL, SMALL_LABELS, random_network
from tests.service.pictures import encode, noise

Run = Callable[..., Result]


@pytest.fixture
def run(small_checkpoint: Path, labels_file: Path, tmp_path: Path) -> Run:
    """The command in this process, on the small checkpoint and with its labels."""
    usual = ["--labels", str(labels_file), "--output", str(tmp_path / "models")]
    runner = CliRunner()

    def run(*options: str | Path, checkpoint: Path = small_checkpoint) -> Result:
        return runner.invoke(main, [str(checkpoint), *usual, *(str(option) for option in options)])

    return run


@pytest.fixture
def wrong_simplification(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: StripMLP, preprocessing: Preprocessing) -> SimplifiedNetwork:
        right = simplify(network, preprocessing)
        return replace(right, merging1=replace(right.merging1, weight=right.merging1.weight * 1.1))

    monkeypatch.setattr(export_module, "simplify", wrong)


def _strict_json(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _models(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_the_table_goes_to_standard_error(run: Run, tmp_path: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"Written: {tmp_path / 'models' / 'small' / '1' / 'model.onnx'}" in result.stderr
    rows = [line for line in result.stderr.splitlines() if re.search("random pixels|encoded pictures", line)]
    assert [int(re.split(r"pixels|pictures", row)[1].split()[0]) for row in rows] == [1, 2, 3, 7, 32] * 2
    assert all(row.count("100.0%") == 2 for row in rows)
    assert "top-1 100 %" in result.stderr


def test_json_is_alone_on_standard_output(run: Run, tmp_path: Path) -> None:
    result = run("--json")
    assert result.exit_code == 0, result.stderr
    document = _strict_json(result.stdout)
    path = tmp_path / "models" / "small" / "1" / "model.onnx"
    assert document["model"] == str(path)
    artifact = Session.open(path, device="cpu", threads=1).artifact
    assert ParityReport.model_validate(document["parity"]) == artifact.parity
    assert "random pixels" not in result.stderr


def test_every_option_is_followed(run: Run, tmp_path: Path, samples: list[EncodedPicture]) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.jpg").write_bytes(samples[0].data)
    result = run(
        *("--name", "other", "--version", "4", "--no-crop", "--interpolation", "lanczos"),
        *("--mean", "0.1", "0.2", "0.3", "--std", "0.4", "0.5", "0.6", "--pictures", tmp_path / "pictures"),
    )
    assert result.exit_code == 0, result.stderr
    path = tmp_path / "models" / "other" / "4" / "model.onnx"
    artifact = Session.open(path, device="cpu", threads=1).artifact
    assert artifact.preprocessing == Preprocessing(
        image_size=32,
        resize_side=32,
        crop=False,
        interpolation="lanczos",
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    assert artifact.parity is not None
    assert {row.pictures for row in artifact.parity.rows} == {32, len(samples) + 1}


def test_what_a_lower_precision_is_allowed_is_said(run: Run, tmp_path: Path) -> None:
    result = run("--precision", "fp16")
    assert result.exit_code == 0, result.stderr
    assert "Allowed: max |Δp| 2.00e-03, top-1 99.9 %" in result.stderr
    assert f"Written: {tmp_path / 'models' / 'small-fp16' / '1' / 'model.onnx'}" in result.stderr


def test_pictures_and_accuracy_of_a_quantised_model_are_said(run: Run, tmp_path: Path) -> None:
    for number in range(200):
        folder = tmp_path / "own" / SMALL_LABELS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode(noise(32, 32, seed=number)))
    # The pictures' classes are made up and the weights random: whether the gate passes is not the question here.
    result = run("--precision", "int8", "--calibration", tmp_path / "own")
    text = " ".join(result.stderr.split())
    assert "Pictures: 100 held back of the 200 pictures of own; 100 others" in text
    assert re.search(r"Accuracy on the 100 of known class: \d+\.\d\d%, in float32 \d+\.\d\d%", text)
    assert "Allowed: top-1 99 %, accuracy 0.5 points lower" in text


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_an_error_is_one_line_and_writes_nothing(run: Run, tmp_path: Path, options: Sequence[str]) -> None:
    checkpoint = tmp_path / f"[red]{'long' * 40}.pth"
    result = run(*options, checkpoint=checkpoint)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.strip() == f"error: {checkpoint} is not a file"
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("wrong_simplification")
def test_a_failed_check_shows_the_table(run: Run, tmp_path: Path) -> None:
    result = run()
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("random pixels") == result.stderr.count("encoded pictures") == 5
    assert "error: The exported graph does not reproduce the checkpoint's answers" in result.stderr
    assert "Written" not in result.stderr
    assert _models(tmp_path) == []


@pytest.mark.usefixtures("wrong_simplification")
def test_a_failed_check_gives_json(run: Run, tmp_path: Path) -> None:
    result = run("--json")
    assert result.exit_code == 1
    document = _strict_json(result.stdout)
    assert document["model"] is None
    assert document["parity"]["passed"] is False
    assert "error: " in result.stderr
    assert _models(tmp_path) == []


def test_numbers_that_are_none_are_still_json(run: Run, tmp_path: Path) -> None:
    state = random_network(SMALL).state_dict()
    state["norm.running_var"] = -torch.ones_like(state["norm.running_var"])
    torch.save(state, tmp_path / "broken.pth")
    result = run("--json", checkpoint=tmp_path / "broken.pth")
    assert result.exit_code == 1
    assert _strict_json(result.stdout)["parity"]["passed"] is False


@pytest.mark.parametrize(
    "options",
    [["--version", "0"], ["--interpolation", "nearest"], ["--mean", "0.5"], ["--std", "a", "b", "c"], ["--unknown"]],
    ids=lambda options: options[0],
)
def test_options_of_another_kind_are_refused(run: Run, tmp_path: Path, options: list[str]) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert options[0] in result.stderr
    assert not (tmp_path / "models").exists()


def _command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "model_export", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_option(tmp_path: Path) -> None:
    result = _command("--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    options = ["name", "version", "labels", "output", "crop", "interpolation", "mean", "std", "pictures", "json"]
    assert all(f"--{option}" in result.stdout for option in options)
    assert all(known in result.stdout for known in KNOWN)
    assert "strip-mlp-export" in result.stdout


def test_from_a_checkpoint_to_a_model_that_is_served(small_checkpoint: Path, labels_file: Path, tmp_path: Path) -> None:
    result = _command(small_checkpoint, "--labels", labels_file, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    document = _strict_json(result.stdout)
    assert document["model"] == "weights/models/small/1/model.onnx"
    assert document["parity"]["passed"] is True
    session = Session.open(tmp_path / document["model"], device="cpu", threads=1)
    session.artifact.require_parity("the file")


def test_an_error_ends_the_process_with_1(tmp_path: Path) -> None:
    result = _command("missing.pth", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip() == "error: missing.pth is not a file"


def test_a_terminated_export_leaves_nothing_half_written(
    small_checkpoint: Path, labels_file: Path, tmp_path: Path
) -> None:
    options = ["--labels", str(labels_file), "--output", str(tmp_path)]
    command = [sys.executable, "-m", "model_export", str(small_checkpoint), *options]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".export-*/1/model.onnx")):
            assert process.poll() is None
        process.terminate()

    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


MOUNTING = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
"""Lets a command have mounts that nobody else sees, and that end with it."""

ON_A_SMALL_DISK = """\
mount -t tmpfs -o size=100k tmpfs "$1" && cd "$2" && shift 2 || exit 77
"$@"
echo "status $?, left: $(ls -A "$OUTPUT")"
"""
"""A shell's: mount a disk of 100 KB on the first folder, run the rest in the second one, and say what came of it."""


def test_a_full_disk_leaves_nothing_half_written(small_checkpoint: Path, labels_file: Path, tmp_path: Path) -> None:
    options = ["--labels", str(labels_file), "--output", str(tmp_path)]
    command = [sys.executable, "-m", "model_export", str(small_checkpoint), *options]

    done = subprocess.run(
        [*MOUNTING, "sh", "-c", ON_A_SMALL_DISK, "sh", str(tmp_path), str(REPOSITORY), *command],
        env=os.environ | {"OUTPUT": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )

    if done.returncode != 0 and not done.stdout:
        pytest.skip(f"no disk can be mounted here: {done.stderr}")
    assert done.stdout.splitlines() == ["status 1, left: "]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "No space left on device" in done.stderr.splitlines()[-1]


def test_a_file_that_may_not_grow_leaves_nothing_half_written(
    small_checkpoint: Path, labels_file: Path, tmp_path: Path
) -> None:
    """The kernel takes no more than so many bytes of a file, of which coverage would want to write one, too."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    options = ["--labels", str(labels_file), "--output", str(tmp_path)]
    command = ["prlimit", "--fsize=100000", sys.executable, "-m", "model_export", str(small_checkpoint), *options]

    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []
