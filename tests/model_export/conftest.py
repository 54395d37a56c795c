"""One small checkpoint and its export, which most tests look at and none changes."""

from pathlib import Path

import pytest
import torch

from model_export.export import Exported, ExportOptions, export
from model_export.sample_pictures import EncodedPicture, sample_pictures
from tests.model_export.checkpoints import (
    QUIET,
    SMALL,
    SMALL_LABELS,
    random_network,
    save_training_checkpoint,
    training_config,
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # On maps this small a second thread gains nothing, and costs tenfold where somebody else uses the other core.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def labels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "seven.txt"
    path.write_text("\n".join(SMALL_LABELS) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    return save_training_checkpoint(path, random_network(SMALL).state_dict(), training_config(SMALL))


@pytest.fixture(scope="session")
def small_model(small_checkpoint: Path, labels_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    output = tmp_path_factory.mktemp("models")
    return export(ExportOptions(small_checkpoint, output, labels=str(labels_file)), QUIET)


@pytest.fixture(scope="session")
def samples() -> list[EncodedPicture]:
    return sample_pictures()
