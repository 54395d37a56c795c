"""Checkpoints and outputs of the authors' own code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.architecture import infer_architecture, load_network
from model_export.checkpoint import read_checkpoint
from model_export.export import Exported, ExportOptions, export
from model_export.network import StripMLP
from model_export.reference import reference_logits
from service.session import Session
from tests.model_export.checkpoints import QUIET

TOLERANCE = 1e-4

OUTPUTS = {
    "stage1": "blocks1",
    "stage2": "blocks2",
    "stage3": "blocks3",
    "stage4": "blocks4",
    "block1_token_mixing": "blocks1.0.token_mixing",
    "block1_channel_mixing": "blocks1.0.channel_mixing",
}
"""Where in the network each recorded output arises."""


@dataclass(frozen=True)
class Golden:
    checkpoint: Path
    outputs: Mapping[str, NDArray[Any]]
    network: StripMLP


@pytest.fixture(scope="module", params=["edge_16", "mixed_40"])
def golden(shared: Path, request: pytest.FixtureRequest) -> Golden:
    path = shared / "golden" / f"{request.param}.pth"
    with np.load(path.with_suffix(".npz")) as outputs:
        checkpoint = read_checkpoint(path)
        network = load_network(checkpoint.state_dict, infer_architecture(checkpoint))
        return Golden(path, dict(outputs), network)


@pytest.fixture(scope="module")
def exported(golden: Golden, labels_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("golden")
    # Nobody knows the data set of edge_16.
    labels = str(labels_file) if golden.checkpoint.stem == "edge_16" else None
    return export(ExportOptions(golden.checkpoint, folder, labels=labels), QUIET)


def test_the_network_answers_as_the_authors(golden: Golden) -> None:
    with torch.inference_mode():
        logits = golden.network(torch.from_numpy(golden.outputs["input"]).double())
    _assert_close(logits.numpy(), golden.outputs["logits"])


def test_every_stage_computes_what_the_authors_does(golden: Golden) -> None:
    found: dict[str, Tensor] = {}
    for name, place in OUTPUTS.items():
        module = golden.network.get_submodule(place)
        module.register_forward_hook(lambda _module, _inputs, output, name=name: found.update({name: output}))
    with torch.inference_mode():
        golden.network(torch.from_numpy(golden.outputs["input"]).double())
    assert found.keys() == golden.outputs.keys() - {"pixels", "input", "logits"}
    for name, output in found.items():
        _assert_close(output.numpy(), golden.outputs[name])


def test_the_reference_normalises_as_the_authors(golden: Golden, exported: Exported) -> None:
    pixels = torch.from_numpy(golden.outputs["pixels"])
    logits = reference_logits(golden.network, pixels, exported.artifact.preprocessing)
    _assert_close(logits.numpy(), golden.outputs["logits"])


def test_the_exported_file_answers_as_the_authors(golden: Golden, exported: Exported) -> None:
    session = Session.open(exported.path, device="cpu", threads=1)
    scores = session.run(golden.outputs["pixels"])
    expected = golden.outputs["logits"].astype(np.float64)
    _assert_close(scores.logits, expected)
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    _assert_close(scores.probabilities, powers / powers.sum(axis=1, keepdims=True))


def _assert_close(found: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
