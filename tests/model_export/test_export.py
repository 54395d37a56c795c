import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from model_export import export as export_module
from model_export.errors import CheckpointError, ExportError, OptionError, OutputError, ParityFailed
from model_export.export import IMAGENET_MEAN, IMAGENET_STD, Exported, ExportOptions, export
from model_export.network import StripMLP
from model_export.sample_pictures import EncodedPicture
from model_export.simplify import SimplifiedNetwork, simplify
from service.artifact import Artifact, Preprocessing
from service.repository import ModelFile, Stamp, find_models
from service.session import Session
from tests.model_export.checkpoints import (
    QUIET,
    SMALL,
    SMALL_LABELS,
    random_network,
    save_training_checkpoint,
    training_config,
)

Export = Callable[..., Exported]


@pytest.fixture
def run(small_checkpoint: Path, labels_file: Path, tmp_path: Path) -> Export:
    """Export the small checkpoint, but for what is given, into `models`."""
    usual = ExportOptions(small_checkpoint, tmp_path / "models", labels=str(labels_file))
    return lambda **changes: export(replace(usual, **changes), QUIET)


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Path]:
    """A small checkpoint with another configuration."""
    state = random_network(SMALL).state_dict()
    return lambda **changes: save_training_checkpoint(tmp_path / "c.pth", state, training_config(SMALL, **changes))


def _tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def _wrong(network: StripMLP, preprocessing: Preprocessing) -> SimplifiedNetwork:
    right = simplify(network, preprocessing)
    return replace(right, merging1=replace(right.merging1, weight=right.merging1.weight * 1.1))


def test_the_file_is_where_the_service_looks(small_model: Exported) -> None:
    output = small_model.path.parents[2]
    assert small_model.path == output / "small" / "1" / "model.onnx"
    assert find_models(output) == {"small": [ModelFile("small", 1, small_model.path, Stamp.of(small_model.path))]}
    assert list(_tree(output)) == ["small", "small/1", "small/1/model.onnx"]


def test_the_file_is_proven_and_usable_by_the_service(small_model: Exported) -> None:
    session = Session.open(small_model.path, device="cpu", threads=1)
    session.artifact.require_parity(str(small_model.path))
    assert session.artifact == small_model.artifact
    onnx.checker.check_model(str(small_model.path), full_check=True)


def test_the_file_describes_itself(small_model: Exported, small_checkpoint: Path) -> None:
    model = onnx.load(small_model.path)
    artifact = Artifact.from_metadata({prop.key: prop.value for prop in model.metadata_props}, "the file")
    assert artifact == small_model.artifact
    assert artifact.name == "small"
    assert artifact.variant is None
    assert artifact.architecture == SMALL
    assert artifact.labels == SMALL_LABELS
    assert artifact.precision == "fp32"
    assert artifact.checkpoint_sha256 == hashlib.sha256(small_checkpoint.read_bytes()).hexdigest()
    assert {"torch", "onnx", "numpy", "pillow"} < artifact.libraries.keys()
    assert artifact.libraries["torch"] == torch.__version__
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert len(artifact.parity.rows) == 10


def test_the_usual_preprocessing_is_the_authors(small_model: Exported) -> None:
    assert small_model.artifact.preprocessing == Preprocessing(
        image_size=32, resize_side=36, crop=True, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def test_options_of_preprocessing(run: Export) -> None:
    given: dict[str, Any] = {"interpolation": "bilinear", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    assert run(crop=False, **given).artifact.preprocessing == Preprocessing(
        image_size=32, resize_side=32, crop=False, **given
    )


def test_the_configuration_tells_the_preprocessing(run: Export, configured: Callable[..., Path]) -> None:
    checkpoint = configured(TEST={"CROP": False}, DATA={"INTERPOLATION": "lanczos"})
    preprocessing = run(checkpoint=checkpoint).artifact.preprocessing
    assert (preprocessing.crop, preprocessing.resize_side, preprocessing.interpolation) == (False, 32, "lanczos")


def test_options_go_before_the_configuration(run: Export, configured: Callable[..., Path]) -> None:
    checkpoint = configured(TEST={"CROP": False}, DATA={"INTERPOLATION": "random"}, MODEL={"NAME": "trained"})
    artifact = run(checkpoint=checkpoint, crop=True, interpolation="hamming", name="given").artifact
    preprocessing = artifact.preprocessing
    assert (preprocessing.crop, preprocessing.resize_side, preprocessing.interpolation) == (True, 36, "hamming")
    assert artifact.name == "given"


def test_the_configuration_tells_pixels_beyond_the_last_patch(run: Export, tmp_path: Path) -> None:
    architecture = SMALL.model_copy(update={"image_size": 34})
    state = random_network(architecture).state_dict()
    checkpoint = save_training_checkpoint(tmp_path / "c.pth", state, training_config(architecture))
    artifact = run(checkpoint=checkpoint).artifact
    assert artifact.architecture == architecture
    assert (artifact.preprocessing.image_size, artifact.preprocessing.resize_side) == (34, 38)


def test_known_labels_need_not_be_given(run: Export, tmp_path: Path) -> None:
    architecture = SMALL.model_copy(update={"num_classes": 10})
    state = random_network(architecture).state_dict()
    checkpoint = save_training_checkpoint(tmp_path / "c.pth", state, training_config(architecture))
    assert run(checkpoint=checkpoint, labels=None).artifact.labels[3] == "cat"


def test_without_a_name_it_is_the_files(run: Export, tmp_path: Path) -> None:
    save_file(random_network(SMALL).state_dict(), tmp_path / "my-weights.best.safetensors")
    exported = run(checkpoint=tmp_path / "my-weights.best.safetensors")
    assert exported.artifact.name == exported.path.parents[1].name == "my-weights"


def test_versions_count_on_from_the_highest(run: Export, tmp_path: Path) -> None:
    for present in ("1", "9", "notes", ".export-10", "11.old"):
        (tmp_path / "models" / "small" / present).mkdir(parents=True)
    assert run().path.parent.name == "10"
    assert run(version=5).path.parent.name == "5"


def test_pictures_are_added_to_the_check(run: Export, samples: list[EncodedPicture], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in samples[:2]:
        (folder / picture.name).write_bytes(picture.data)
    parity = run(pictures=folder).artifact.parity
    assert parity is not None
    assert {row.pictures for row in parity.rows} == {32, len(samples) + 2}


@pytest.fixture
def occupied(tmp_path: Path) -> Path:
    """A model repository with something in it."""
    version = tmp_path / "models" / "small" / "3"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"another model")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"checkpoint": Path("missing.pth")}, CheckpointError, "missing.pth is not a file"),
        ({"labels": None}, OptionError, "'cifar-10'|'CIFAR10'"),
        ({"labels": "cifar-100"}, OptionError, "gives 100 labels, the weights have 7"),
        ({"version": 3}, OptionError, r"small.3 exists already; choose another --version"),
        ({"name": ""}, OptionError, "name is ''.*give --name"),
        ({"labels": ""}, OptionError, "labels '' are none of"),
        ({"name": "a/b"}, OptionError, "name is 'a/b'.*give --name"),
        ({"name": ".hidden"}, OptionError, "name is '.hidden'.*give --name"),
        ({"name": "two words"}, OptionError, "name is 'two words'.*give --name"),
        ({"interpolation": "nearest"}, OptionError, "interpolation is 'nearest'.*give --interpolation"),
        ({"std": (0.2, 0.0, 0.2)}, OptionError, r"std is \(0.2, 0.0, 0.2\).*give --std"),
        ({"mean": (0.2, float("nan"), 0.2)}, OptionError, "mean is .*give --mean"),
        ({"pictures": Path("missing")}, OptionError, "--pictures missing is not a directory"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_followed_leaves_the_repository_alone(
    run: Export, occupied: Path, changes: dict[str, Any], error: type[ExportError], message: str
) -> None:
    before = _tree(occupied)
    with pytest.raises(error, match=message):
        run(**changes)
    assert _tree(occupied) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"DATA": {"INTERPOLATION": "random"}}, "interpolation is 'random'.*give --interpolation"),
        ({"MODEL": {"NAME": "strip mlp/tiny"}}, "name is 'strip mlp/tiny'.*give --name"),
        ({"DATA": {"IMG_SIZE": 64}}, "contradicts itself"),
    ],
    ids=["interpolation", "name", "image size"],
)
def test_what_the_configuration_says_and_cannot_be_followed(
    run: Export, configured: Callable[..., Path], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        run(checkpoint=configured(**config))
    assert not (tmp_path / "models").exists()


def test_a_picture_that_cannot_be_read_leaves_nothing_behind(run: Export, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(OptionError, match=r"broken\.png"):
        run(pictures=tmp_path / "pictures")
    assert _tree(tmp_path / "models") == {}


def test_a_file_that_fails_the_check_is_not_written(
    run: Export, occupied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _tree(occupied)
    monkeypatch.setattr(export_module, "simplify", _wrong)
    with pytest.raises(ParityFailed, match="no model was written") as caught:
        run()
    assert not caught.value.report.passed
    assert _tree(occupied) == before


@pytest.mark.parametrize("blocked", ["models", "models/small"])
def test_a_file_in_the_place_of_a_folder(run: Export, tmp_path: Path, blocked: str) -> None:
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    path.write_text("in the way")
    with pytest.raises(OutputError, match=re.escape(f"cannot write {tmp_path}/models/small/1/model.onnx")):
        run()
    assert path.read_text() == "in the way"
    assert not list(tmp_path.rglob(".export-*"))


def test_a_version_that_appears_meanwhile_is_not_overwritten(
    run: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "models" / "small" / "1" / "model.onnx"

    def meanwhile(network: StripMLP, preprocessing: Preprocessing) -> SimplifiedNetwork:
        other.parent.mkdir(parents=True)
        other.write_bytes(b"another model")
        return simplify(network, preprocessing)

    monkeypatch.setattr(export_module, "simplify", meanwhile)
    with pytest.raises(OutputError):
        run()
    assert _tree(tmp_path / "models") == {"small": None, "small/1": None, "small/1/model.onnx": b"another model"}


def test_a_disk_that_changes_the_proven_file_is_noticed(
    run: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = onnx.save

    def failing_disk(model: onnx.ModelProto, path: Path) -> None:
        proven = path.exists()
        if proven:
            bias = next(weight for weight in model.graph.initializer if weight.name == "head/bias")
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
        save(model, path)

    monkeypatch.setattr(onnx, "save", failing_disk)
    with pytest.raises(OutputError, match="does not answer as the one that was checked"):
        run()
    assert _tree(tmp_path / "models") == {}
