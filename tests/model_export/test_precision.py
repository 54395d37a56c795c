"""Models of lower precision, from the checkpoint to the service that tells them apart."""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export import export as export_module
from model_export import precision as precision_module
from model_export.calibration import LEAST
from model_export.errors import OptionError, ParityFailed
from model_export.export import Exported, ExportOptions, export
from model_export.gates import EIGHT_BIT_GATE
from model_export.network import StripMLP
from model_export.quantisation import Quantiser
from model_export.simplify import SimplifiedNetwork, simplify
from service.artifact import Artifact, Precision, Preprocessing
from service.session import Session
from tests.conftest import REPOSITORY
from tests.model_export.checkpoints import QUIET
from tests.service.live import live_service
from tests.service.pictures import encode, noise

CHECKPOINT = REPOSITORY / "weights" / "strip_mlp_nano_cifar10.pth"


@pytest.fixture(scope="module")
def options(small_checkpoint: Path, labels_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportOptions:
    """What makes an int8 model of the small checkpoint."""
    pictures = tmp_path_factory.mktemp("pictures")
    for number in range(LEAST):
        (pictures / f"{number:04}.png").write_bytes(encode(noise(40, 40, seed=number)))
    return ExportOptions(
        small_checkpoint, Path("unset"), labels=str(labels_file), precision="int8", calibration=pictures
    )


def eight_bit_weights(path: Path) -> int:
    weights = onnx.load(path).graph.initializer
    return sum(weight.data_type == onnx.TensorProto.INT8 for weight in weights)


def test_an_8_bit_model_is_proven_on_pictures_held_back(
    options: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The small network's classes are as good as random, so that many pictures lie between two of them.
    monkeypatch.setattr("model_export.agreement.EIGHT_BIT_GATE", replace(EIGHT_BIT_GATE, top1_agreement=0.5))
    exported = export(replace(options, output=tmp_path), QUIET)
    report = exported.artifact.parity
    assert report is not None
    assert exported.path == tmp_path / "small-int8" / "1" / "model.onnx"
    assert exported.artifact.precision == "int8"
    assert options.calibration is not None
    assert report.pictures == (
        f"100 held back of the 200 pictures of {options.calibration.name}; "
        "100 others, evenly spread over the sorted paths, calibrated it"
    )
    assert {row.source for row in report.rows} == {"held-back pictures"}
    assert eight_bit_weights(exported.path) > 0
    assert Session.open(exported.path, device="cpu", threads=1).artifact == exported.artifact


def test_an_8_bit_model_that_fails_its_gate_is_not_written(
    options: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(self: Quantiser, groups: object) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        head = next(weight for weight in model.graph.initializer if weight.name == "head/weight")
        head.raw_data = (-onnx.numpy_helper.to_array(head)).tobytes()
        return model

    monkeypatch.setattr(Quantiser, "quantised", spoilt)
    with pytest.raises(ParityFailed) as failure:
        export(replace(options, output=tmp_path), QUIET)
    assert failure.value.report.rows[0].source == "held-back pictures"
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_wrong_graph_is_not_quantised(
    options: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: StripMLP, preprocessing: Preprocessing) -> SimplifiedNetwork:
        right = simplify(network, preprocessing)
        return replace(right, merging1=replace(right.merging1, weight=right.merging1.weight * 1.1))

    monkeypatch.setattr(export_module, "simplify", wrong)
    monkeypatch.setattr(precision_module, "quantise", lambda *_: pytest.fail("quantised"))
    with pytest.raises(ParityFailed) as failure:
        export(replace(options, output=tmp_path), QUIET)
    assert {row.source for row in failure.value.report.rows} == {"random pixels", "encoded pictures"}


def test_8_bits_need_pictures(options: ExportOptions, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"needs --calibration: a directory of pictures.*at least 200"):
        export(replace(options, output=tmp_path / "models", calibration=None), QUIET)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pictures_are_for_8_bits_alone(options: ExportOptions, tmp_path: Path, precision: Precision) -> None:
    with pytest.raises(OptionError, match=f"not for {precision}"):
        export(replace(options, output=tmp_path, precision=precision), QUIET)


@pytest.fixture(scope="module")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    with zipfile.ZipFile(shared / "data" / "cifar10_test_1000.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def precisions(cifar: Path, bundled_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The bundled model beside its two lower precisions, in one repository."""
    output = tmp_path_factory.mktemp("precisions")
    shutil.copytree(bundled_models, output, dirs_exist_ok=True)
    options = ExportOptions(CHECKPOINT, output)
    return {
        "fp16": export(replace(options, precision="fp16"), QUIET),
        "int8": export(replace(options, precision="int8", calibration=cifar), QUIET),
    }


def test_the_bundled_model_in_8_bits_answers_as_well(precisions: dict[str, Exported]) -> None:
    report = precisions["int8"].artifact.parity
    assert report is not None
    assert report.accuracy is not None
    print(report.model_dump_json(indent=1))
    assert all(row.top1_agreement >= 0.99 and row.pictures == 744 for row in report.rows)
    assert report.accuracy.pictures == 744
    assert abs(report.accuracy.reference - report.accuracy.candidate) <= 0.005
    assert eight_bit_weights(precisions["int8"].path) > 30


def test_the_service_serves_them_side_by_side_and_tells_them_apart(
    precisions: dict[str, Exported], cifar: Path
) -> None:
    repository = precisions["fp16"].path.parents[2]
    picture = next((cifar / "ship").iterdir()).read_bytes()
    with live_service(repository, default_model="strip_mlp_nano_cifar10") as client:
        models = {model["name"]: model["artifact"]["precision"] for model in client.get("/models").json()["models"]}
        assert models == {
            "strip_mlp_nano_cifar10": "fp32",
            "strip_mlp_nano_cifar10-fp16": "fp16",
            "strip_mlp_nano_cifar10-int8": "int8",
        }
        scores = {}
        for name in models:
            answer = client.post("/classify", params={"model": name}, files={"files": ("a.png", picture)})
            assert answer.status_code == 200, answer.text
            scores[name] = answer.json()["results"][0]["predictions"][0]["probability"]
    assert len(set(scores.values())) == 3
    assert np.ptp(list(scores.values())) < 0.1


def test_what_a_report_says_is_read_back(precisions: dict[str, Exported]) -> None:
    for exported in precisions.values():
        artifact = Artifact.model_validate_json(exported.artifact.model_dump_json())
        assert artifact == exported.artifact
