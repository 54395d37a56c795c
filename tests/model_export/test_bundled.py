"""The model that comes with the project is what its checkpoint gives."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from model_export.export import Exported, ExportOptions, export
from service.repository import find_models
from service.session import Session
from tests.conftest import REPOSITORY
from tests.model_export.checkpoints import QUIET

CHECKPOINT = REPOSITORY / "weights" / "strip_mlp_nano_cifar10.pth"

# Of the file that was trained; its card in the README has the accuracy.
SHA_256 = "27ff182ea0855891dfcca1d84a54024138f050bf98d68eb3d437f53931285b5c"


@pytest.fixture(scope="module")
def committed(bundled_models: Path) -> Session:
    ((file,),) = find_models(bundled_models).values()
    return Session.open(file.path, device="cpu", threads=1)


@pytest.fixture(scope="module")
def anew(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(ExportOptions(CHECKPOINT, tmp_path_factory.mktemp("models")), QUIET)


def test_the_checkpoint_is_the_trained_one(committed: Session) -> None:
    assert hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest() == SHA_256
    assert committed.artifact.checkpoint_sha256 == SHA_256


def test_the_committed_model_is_the_only_one_and_proven(bundled_models: Path, committed: Session) -> None:
    found = {name: [file.version for file in files] for name, files in find_models(bundled_models).items()}
    assert found == {"strip_mlp_nano_cifar10": [1]}
    committed.artifact.require_parity("the committed model")


def test_a_new_export_says_the_same_of_itself(committed: Session, anew: Exported) -> None:
    varying = {"libraries", "parity"}
    assert anew.artifact.model_dump(exclude=varying) == committed.artifact.model_dump(exclude=varying)
    assert anew.path.parts[-3:] == ("strip_mlp_nano_cifar10", "1", "model.onnx")


def test_a_new_export_proves_the_same(committed: Session, anew: Exported) -> None:
    before, now = committed.artifact.parity, anew.artifact.parity
    assert before is not None
    assert now is not None
    cases = [[(row.source, row.batch_size, row.pictures) for row in report.rows] for report in (before, now)]
    assert cases[0] == cases[1]
    assert all(row.max_abs_logit_error < 1e-4 for row in (*before.rows, *now.rows))


def test_a_new_export_gives_the_same_logits(committed: Session, anew: Exported) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    found = Session.open(anew.path, device="cpu", threads=1).run(pixels)
    assert np.allclose(found.logits, committed.run(pixels).logits, rtol=0, atol=1e-5)
