"""From PNG files over HTTP to answers, against the network in PyTorch with the authors' preprocessing."""

import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from model_export.architecture import infer_architecture, load_network
from model_export.checkpoint import read_checkpoint
from model_export.reference import load_picture, resize_and_crop
from service.repository import find_models
from service.session import Session
from tests.conftest import REPOSITORY
from tests.service.live import live_service

CHECKPOINT = REPOSITORY / "weights" / "strip_mlp_nano_cifar10.pth"

PICTURES_A_REQUEST = 100


@pytest.fixture(scope="module")
def cifar(shared: Path) -> dict[str, bytes]:
    """A thousand PNG files by `class/name.png`."""
    with zipfile.ZipFile(shared / "data" / "cifar10_test_1000.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(".png")}


def test_the_service_answers_every_picture_as_the_checkpoint(cifar: dict[str, bytes], bundled_models: Path) -> None:
    assert len(cifar) == 1000
    expected = _answers_of_the_checkpoint(list(cifar.values()), bundled_models)
    names = list(cifar)
    with live_service(bundled_models) as client:
        found = [
            label
            for start in range(0, len(names), PICTURES_A_REQUEST)
            for label in _classify(client, cifar, names[start : start + PICTURES_A_REQUEST])
        ]
    differing = {name: pair for name, *pair in zip(names, found, expected, strict=True) if pair[0] != pair[1]}
    assert not differing
    accuracy = np.mean([label == name.partition("/")[0] for name, label in zip(names, found, strict=True)])
    print(f"top-1 of {len(names)} pictures: {accuracy:.1%}")
    assert accuracy >= 0.8


def _classify(client: httpx.Client, pictures: dict[str, bytes], names: list[str]) -> list[str]:
    files = [("files", (name, pictures[name], "image/png")) for name in names]
    answer = client.post("/classify", params={"top_k": 1}, files=files)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["filename"] for result in results] == names
    return [result["predictions"][0]["label"] for result in results]


@torch.inference_mode()
def _answers_of_the_checkpoint(pictures: list[bytes], models: Path) -> list[str]:
    artifact = Session.open(next(iter(find_models(models).values()))[0].path, device="cpu", threads=1).artifact
    checkpoint = read_checkpoint(CHECKPOINT)
    network = load_network(checkpoint.state_dict, infer_architecture(checkpoint)).float()
    mean, std = torch.tensor(artifact.preprocessing.mean), torch.tensor(artifact.preprocessing.std)
    best: list[int] = []
    for start in range(0, len(pictures), 50):
        batch = [resize_and_crop(load_picture(data), artifact.preprocessing) for data in pictures[start : start + 50]]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in batch])).float()
        best += network(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).argmax(dim=1).tolist()
    return [artifact.labels[index] for index in best]
