from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from model_export.export import Exported
from model_export.quantisation import Quantiser
from service.preprocessing import Pixels
from tests.model_export.checkpoints import SMALL

KINDS = {"channels/expand", "channels/contract", "tokens/spread", "tokens/strips/rows/fuse", "tokens/fuse"}


@pytest.fixture(scope="module")
def single(small_model: Exported) -> onnx.ModelProto:
    return onnx.load(small_model.path)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def quantiser(single: onnx.ModelProto, pixels: Pixels) -> Quantiser:
    return Quantiser.calibrated(single, pixels)


def logits(model: onnx.ModelProto, pixels: Pixels) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"pixels": pixels})[0])


def eight_bit_weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {
        weight.name: weight
        for weight in model.graph.initializer
        if weight.data_type == TensorProto.INT8 and not weight.name.endswith("_zero_point")
    }


def test_groups_are_the_large_products_by_stage_and_kind(quantiser: Quantiser) -> None:
    groups = {group.name: group.nodes for group in quantiser.groups}
    merging = {f"merging{number}" for number in (1, 2, 3)}
    assert groups.keys() == {f"stage{stage}/{kind}" for stage in (1, 2, 3, 4) for kind in KINDS} | merging
    assert groups["stage2/tokens/fuse"] == ("stage2/block0/tokens/fuse", "stage2/block1/tokens/fuse")
    assert sum(map(len, groups.values())) == len(KINDS) * sum(SMALL.depths) + 3


def test_the_graph_in_single_precision_is_left_as_it_is(single: onnx.ModelProto, quantiser: Quantiser) -> None:
    before = single.SerializeToString()
    quantiser.quantised(quantiser.groups)
    assert single.SerializeToString() == before


def test_matrix_products_end_in_floats(quantiser: Quantiser) -> None:
    nodes = quantiser.quantised(quantiser.groups).graph.node
    products = {node.output[0] for node in nodes if node.op_type == "MatMul" and "/channels/" in node.name}
    assert products
    assert not products & {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}


def test_weights_of_the_groups_alone_are_in_8_bits_by_output_channel(quantiser: Quantiser) -> None:
    chosen = [group for group in quantiser.groups if group.name in {"stage2/channels/expand", "merging1"}]
    model = quantiser.quantised(chosen)
    onnx.checker.check_model(model, full_check=True)
    weights = eight_bit_weights(model)
    assert len(weights) == 3
    scales = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer if "scale" in each.name}
    assert scales["merging1/weight_scale"].shape == (32,)
    assert scales["stage2/block0/channels/expand/weight_scale"].shape == (96,)


def test_answers_are_near(single: onnx.ModelProto, quantiser: Quantiser, pixels: Pixels) -> None:
    expected = logits(single, pixels)
    found = logits(quantiser.quantised(quantiser.groups), pixels)
    error = np.abs(found - expected).max()
    assert 1e-4 < error < 0.2 * (expected.max() - expected.min())


def test_a_quantised_file_takes_less_room(single: onnx.ModelProto, quantiser: Quantiser, tmp_path: Path) -> None:
    for name, model in (("single", single), ("quantised", quantiser.quantised(quantiser.groups))):
        onnx.save(model, tmp_path / name)
    assert (tmp_path / "quantised").stat().st_size < 0.7 * (tmp_path / "single").stat().st_size
