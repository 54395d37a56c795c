"""Operations and bytes of graphs whose counts are known."""

from math import prod
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_check.work import Work, work_of
from model_export.graph import IR_VERSION, OPSET, build_graph
from model_export.simplify import simplify
from tests.model_export.checkpoints import SMALL, random_network
from tests.service import colours


def saved(path: Path, operator: str, shape: list[int], weight: list[int], result: list[int], **attributes: Any) -> Path:
    """One operator on a batch, with one weight."""

    def value(name: str, dims: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *dims])

    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], **attributes)],
        "one",
        [value("x", shape)],
        [value("y", result)],
        [helper.make_tensor("w", TensorProto.FLOAT, weight, bytes(4 * prod(weight)), raw=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION), path)
    return path


@pytest.mark.parametrize(
    ("operator", "shape", "weight", "result", "attributes", "operations"),
    [
        ("Conv", [6, 8, 8], [10, 6, 3, 3], [10, 6, 6], {}, 2 * 360 * 6 * 9),
        ("Conv", [6, 8, 8], [6, 1, 3, 3], [6, 6, 6], {"group": 6}, 2 * 216 * 9),
        ("MatMul", [5, 7], [7, 3], [5, 3], {}, 2 * 15 * 7),
        ("Gemm", [7], [3, 7], [3], {"transB": 1}, 2 * 3 * 7),
        ("Add", [7], [7], [7], {}, 0),
    ],
)
def test_operators_are_counted_by_their_shapes(
    tmp_path: Path, operator: str, shape: list[int], weight: list[int], result: list[int], attributes: Any,
    operations: int,
) -> None:  # fmt: skip
    path = saved(tmp_path / "one.onnx", operator, shape, weight, result, **attributes)

    assert work_of(path) == Work(operations, 2 * 4 * prod(result))


def test_a_network_takes_about_what_pytorch_counts(tmp_path: Path) -> None:
    """The simplified graph does a little less in convolutions, and pads strips where the authors' code does not."""
    network = random_network(SMALL)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, SMALL.image_size, SMALL.image_size))
    path = tmp_path / "small.onnx"
    onnx.save(build_graph(simplify(network.double(), colours.artifact().preprocessing)), path)

    assert work_of(path).operations == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_graph_whose_shapes_do_not_follow_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "one.onnx", "Mystery", [7], [7], [7], domain="nobody")
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(helper.make_node("Neg", ["z"], ["y"]))
    onnx.save(model, path)

    with pytest.raises(ValueError, match="no shape follows for z"):
        work_of(path)
