import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from model_export.architecture import load_network
from model_export.checkpoint import read_checkpoint
from model_export.errors import OptionError
from model_export.export import Exported
from model_export.graph import build_graph
from model_export.network import StripMLP
from model_export.parity import check_parity
from model_export.sample_pictures import EncodedPicture
from model_export.simplify import SimplifiedNetwork, simplify
from service.artifact import METADATA_KEY, Artifact, ParityReport, Preprocessing
from service.preprocessing import Pixels, to_pixels
from service.session import Session
from tests.model_export.checkpoints import QUIET, SMALL, random_network

BATCH_SIZES = (1, 2, 3, 7, 32)


class Check(Protocol):
    def __call__(
        self,
        network: StripMLP,
        candidate: SimplifiedNetwork | onnx.ModelProto,
        pictures: Sequence[EncodedPicture] = ...,
        **preprocessing: Any,
    ) -> ParityReport: ...


@pytest.fixture(scope="module")
def network(small_checkpoint: Path) -> StripMLP:
    return load_network(read_checkpoint(small_checkpoint).state_dict, SMALL)


@pytest.fixture(scope="module")
def simplified(network: StripMLP, small_model: Exported) -> SimplifiedNetwork:
    return simplify(network, small_model.artifact.preprocessing)


@pytest.fixture
def check(tmp_path: Path, small_model: Exported, samples: list[EncodedPicture]) -> Check:
    """Write the candidate to a file, open it as the service does, and compare it with the network."""

    def check(
        network: StripMLP,
        candidate: SimplifiedNetwork | onnx.ModelProto,
        pictures: Sequence[EncodedPicture] = samples[3:6],
        **preprocessing: Any,
    ) -> ParityReport:
        model = candidate if isinstance(candidate, onnx.ModelProto) else build_graph(candidate)
        helper.set_model_props(model, {METADATA_KEY: _described(small_model.artifact, preprocessing)})
        onnx.save(model, tmp_path / "model.onnx")
        session = Session.open(tmp_path / "model.onnx", device="cpu", threads=1)
        return check_parity(network, session, pictures, QUIET)

    return check


def _described(artifact: Artifact, preprocessing: dict[str, Any]) -> str:
    changed = artifact.preprocessing.model_copy(update=preprocessing)
    return artifact.model_copy(update={"preprocessing": changed}).model_dump_json()


def _with_logits(*logits: float) -> StripMLP:
    """A network that answers every picture alike."""
    state = random_network(SMALL).state_dict()
    state["head.weight"] = torch.zeros_like(state["head.weight"])
    state["head.bias"] = torch.tensor(logits, dtype=torch.float64)
    return load_network(state, SMALL)


def _simplified(network: StripMLP, small_model: Exported) -> SimplifiedNetwork:
    return simplify(network, small_model.artifact.preprocessing)


def _failing(report: ParityReport) -> set[tuple[str, int]]:
    assert report.max_abs_logit_error_allowed is not None
    return {
        (row.source, row.batch_size)
        for row in report.rows
        if not row.max_abs_logit_error <= report.max_abs_logit_error_allowed
    }


def test_a_right_file_passes(network: StripMLP, simplified: SimplifiedNetwork, check: Check) -> None:
    report = check(network, simplified)
    assert report.passed
    for row in report.rows:
        assert 0 < row.mean_abs_logit_error <= row.max_abs_logit_error < 1e-4
        assert row.max_abs_probability_error < 1e-5
        assert (row.top1_agreement, row.top5_agreement) == (1, 1)
    assert "CPUExecutionProvider" in report.candidate


def test_both_sources_are_run_in_every_batch_size(
    network: StripMLP, simplified: SimplifiedNetwork, check: Check
) -> None:
    rows = {(row.source, row.batch_size, row.pictures) for row in check(network, simplified).rows}
    counts = (("random pixels", 32), ("encoded pictures", 3))
    assert rows == {(source, size, count) for source, count in counts for size in BATCH_SIZES}


@pytest.mark.parametrize("size", BATCH_SIZES)
def test_a_file_that_errs_in_one_batch_size_fails_there(
    network: StripMLP, simplified: SimplifiedNetwork, check: Check, size: int
) -> None:
    model = build_graph(simplified)
    head = next(node for node in model.graph.node if node.name == "head")
    head.output[0] = "right"
    model.graph.initializer.append(numpy_helper.from_array(np.array([size]), "size"))
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["pixels"], ["batch"], end=1),
            helper.make_node("Equal", ["batch", "size"], ["hit"]),
            helper.make_node("Cast", ["hit"], ["error"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["right", "error"], ["logits"]),
        ]
    )
    # Last again, as nodes must follow what they read.
    probabilities = next(node for node in model.graph.node if node.name == "probabilities")
    model.graph.node.remove(probabilities)
    model.graph.node.append(probabilities)
    report = check(network, model)
    assert not report.passed
    assert _failing(report) == {("random pixels", size), ("encoded pictures", size)}


def test_other_weights_fail(network: StripMLP, simplified: SimplifiedNetwork, check: Check) -> None:
    other = replace(simplified, merging2=replace(simplified.merging2, weight=simplified.merging2.weight * 1.01))
    assert not check(network, other).passed


def test_exchanged_classes_fail(network: StripMLP, simplified: SimplifiedNetwork, check: Check) -> None:
    order = [1, 0, 2, 3, 4, 5, 6]
    head = replace(simplified.head, weight=simplified.head.weight[:, order], bias=simplified.head.bias[order])
    report = check(network, replace(simplified, head=head))
    assert not report.passed
    assert min(row.top1_agreement for row in report.rows) < 1


@pytest.mark.parametrize("described", [{"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}], ids=["mean", "std"])
def test_another_normalisation_than_the_file_says_fails(
    network: StripMLP, simplified: SimplifiedNetwork, check: Check, described: dict[str, Any]
) -> None:
    assert not check(network, simplified, **described).passed


@pytest.mark.parametrize(
    "mistake",
    [{"interpolation": "bilinear"}, {"crop": False}, {"resize_side": 40}],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_mistake_in_the_service_fails_on_encoded_pictures(
    network: StripMLP,
    simplified: SimplifiedNetwork,
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
    mistake: dict[str, Any],
) -> None:
    def mistaken(picture: Image.Image, preprocessing: Preprocessing) -> Pixels:
        return to_pixels(picture, preprocessing.model_copy(update=mistake))

    monkeypatch.setattr("service.pixels.to_pixels", mistaken)
    report = check(network, simplified)
    assert not report.passed
    assert _failing(report) == {("encoded pictures", size) for size in BATCH_SIZES}


def test_wrong_probabilities_fail(network: StripMLP, simplified: SimplifiedNetwork, check: Check) -> None:
    # The service ranks by them.
    model = build_graph(simplified)
    next(node for node in model.graph.node if node.name == "probabilities").op_type = "LogSoftmax"
    assert not check(network, model).passed


@pytest.mark.parametrize("in_reference", [True, False], ids=["reference", "candidate"])
def test_not_a_number_fails(small_model: Exported, check: Check, *, in_reference: bool) -> None:
    right = _with_logits(0, 1, 2, 3, 4, 5, 6)
    wrong = _with_logits(0, 1, 2, 3, 4, 5, 6)
    with torch.no_grad():
        wrong.head.bias[2] = torch.nan
    network, candidate = (wrong, right) if in_reference else (right, wrong)
    assert not check(network, _simplified(candidate, small_model)).passed


@pytest.mark.parametrize(("span", "allowed"), [(5, 1e-3), (20, 2e-3)])
@pytest.mark.parametrize(("error", "passed"), [(0.9, True), (1.1, False)], ids=["just inside", "just outside"])
def test_the_gate_is_a_thousandth_or_a_ten_thousandth_of_the_range(
    small_model: Exported, check: Check, span: float, allowed: float, error: float, *, passed: bool
) -> None:
    logits = (span - 3, *(-3.0,) * 6)
    other = _with_logits(*(value + error * allowed for value in logits))
    report = check(_with_logits(*logits), _simplified(other, small_model))
    assert report.logit_range == pytest.approx(span)
    assert report.max_abs_logit_error_allowed == pytest.approx(allowed)
    assert {round(row.max_abs_logit_error / allowed, 1) for row in report.rows} == {error}
    assert report.passed is passed


@pytest.mark.parametrize(
    ("expected", "found", "top1", "top5", "passed"),
    [
        ((6.0001, 6, 4, 3, 2, 1, 0), (6, 6.0001, 4, 3, 2, 1, 0), 0, 1, False),
        ((6, 5, 4.0001, 4, 2, 1, 0), (6, 5, 4, 4.0001, 2, 1, 0), 1, 1, True),
        ((6, 5, 4, 3, 2.0001, 2, 0), (6, 5, 4, 3, 2, 2.0001, 0), 1, 0, True),
    ],
    ids=["first and second", "third and fourth", "fifth and sixth"],
)
def test_neighbours_that_change_places(
    small_model: Exported,
    check: Check,
    expected: tuple[float, ...],
    found: tuple[float, ...],
    top1: float,
    top5: float,
    *,
    passed: bool,
) -> None:
    report = check(_with_logits(*expected), _simplified(_with_logits(*found), small_model))
    assert not _failing(report)
    assert {(row.top1_agreement, row.top5_agreement) for row in report.rows} == {(top1, top5)}
    assert report.passed is passed


def _encoded(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (40, 40)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"no picture", b"", _encoded("RGB", "PNG")[:50], _encoded("F", "TIFF")],
    ids=["text", "empty", "truncated", "floating point"],
)
def test_a_picture_that_cannot_be_used_is_named(
    network: StripMLP, simplified: SimplifiedNetwork, check: Check, data: bytes
) -> None:
    with pytest.raises(OptionError, match=re.escape("--pictures: odd.jpg cannot be used")):
        check(network, simplified, pictures=[EncodedPicture("odd.jpg", data)])
