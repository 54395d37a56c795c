from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from model_export.export import Exported, ExportOptions, export
from model_export.half import to_half
from service.preprocessing import Pixels
from service.session import Session
from tests.model_export.checkpoints import QUIET


@pytest.fixture(scope="module")
def single(small_model: Exported) -> onnx.ModelProto:
    return onnx.load(small_model.path)


@pytest.fixture(scope="module")
def half(single: onnx.ModelProto) -> onnx.ModelProto:
    return to_half(single)


@pytest.fixture(scope="module")
def types(half: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value."""
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        weight.name: weight.data_type for weight in inferred.graph.initializer
    }


def test_the_graph_is_valid_and_the_original_untouched(single: onnx.ModelProto, half: onnx.ModelProto) -> None:
    onnx.checker.check_model(half, full_check=True)
    assert TensorProto.FLOAT16 not in {weight.data_type for weight in single.graph.initializer}


def test_names_are_given_once(half: onnx.ModelProto) -> None:
    names = [node.name for node in half.graph.node]
    assert len(set(names)) == len(names)


def test_products_are_in_half(half: onnx.ModelProto, types: dict[str, int]) -> None:
    single = {
        node.name
        for node in half.graph.node
        if node.op_type in {"Conv", "MatMul", "Gemm"} and types[node.output[0]] != TensorProto.FLOAT16
    }
    sums = {node.name for node in half.graph.node if node.name.endswith("/response/sum")}
    assert single == {"patch_embed", "head", "stage1/block0/tokens/fuse"} | sums


def test_what_would_overflow_is_in_single_precision_without_a_detour(
    half: onnx.ModelProto, types: dict[str, int]
) -> None:
    makers = {output: node for node in half.graph.node for output in node.output}

    def maker(value: str) -> onnx.NodeProto:
        node = makers[value]
        return maker(node.input[0]) if node.op_type == "Identity" else node

    for node in half.graph.node:
        if node.name.endswith("/response/norm"):
            assert types[node.output[0]] == TensorProto.FLOAT
            total = maker(node.input[0])
            assert total.name.endswith("/response/sum")
            assert maker(total.input[1]).name.endswith("/response/square")


def test_nothing_is_computed_in_vain(half: onnx.ModelProto) -> None:
    taken = {value for node in half.graph.node for value in node.input} | {value.name for value in half.graph.output}
    assert not [node.name for node in half.graph.node if not taken & set(node.output)]


def test_input_and_outputs_are_as_before(single: onnx.ModelProto, half: onnx.ModelProto) -> None:
    assert list(half.graph.input) == list(single.graph.input)
    assert list(half.graph.output) == list(single.graph.output)


def test_sums_of_squares_beyond_the_largest_half_are_right(single: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(single)
    for weight in model.graph.initializer:
        if weight.name.endswith("channels/expand/bias"):
            weight.raw_data = np.full(weight.dims, 300, np.float32).tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected, found = (_probabilities(each, pixels) for each in (model, to_half(model)))
    np.testing.assert_allclose(found, expected, atol=0.02)


def _probabilities(model: onnx.ModelProto, pixels: Pixels) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})
    return np.asarray(probabilities)


def test_an_export_says_its_precision_and_passes_its_gate(
    small_checkpoint: Path, labels_file: Path, tmp_path: Path
) -> None:
    options = ExportOptions(small_checkpoint, tmp_path, labels=str(labels_file), precision="fp16")
    exported = export(options, QUIET)
    report = exported.artifact.parity
    assert report is not None
    assert exported.path == tmp_path / "small-fp16" / "1" / "model.onnx"
    assert exported.artifact.precision == "fp16"
    assert (report.max_abs_logit_error_allowed, report.max_abs_probability_error_allowed) == (None, 2e-3)
    assert report.top1_agreement_required == 0.999
    assert 1e-6 < max(row.max_abs_probability_error for row in report.rows) <= 2e-3
    session = Session.open(exported.path, device="cpu", threads=1)
    assert session.artifact == exported.artifact
