"""The graph in half precision, for CUDA: ONNX Runtime's own converter, told what to leave in single precision.

What is left: sums of squares over a map (65504 is the largest half, and one pixel may add thousands), the norms and
softmaxes, the residuals that every block adds to, the head, and the first stage's `fuse`, without which the bundled
model's probabilities are twice as far off. The input stays uint8, the outputs float32.
"""

import warnings

import onnx
from onnx import NodeProto, TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

SINGLE_OPERATORS = {"LayerNormalization", "Softmax"}
SINGLE_PLACES = ("input/", "patch_embed", "head", "probabilities")
SINGLE_ENDS = ("/residual", "/entry/mul", "/entry/add")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph from `build_graph` with float16 weights and arithmetic."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one warning for each weight below the smallest half; the gate judges
        half: onnx.ModelProto = convert_float_to_float16(
            copy,
            keep_io_types=True,
            node_block_list=[node.name for node in model.graph.node if _stays_single(node)],
        )
    # The converter casts a value once for each input of a node that takes it, under one name: for a square, twice.
    nodes = {node.name: node for node in half.graph.node}
    del half.graph.node[:]
    half.graph.node.extend(_without_detours(list(nodes.values())))
    OnnxModel(half).topological_sort()
    return half


def _stays_single(node: NodeProto) -> bool:
    response = "/response/" in node.name and not node.name.endswith("/apply")
    places = node.name.startswith(SINGLE_PLACES) or node.name.endswith(SINGLE_ENDS)
    first_fuse = node.name.startswith("stage1/") and node.name.endswith("/tokens/fuse")
    return response or places or first_fuse or node.op_type in SINGLE_OPERATORS


def _without_detours(nodes: list[NodeProto]) -> list[NodeProto]:
    """Between two nodes in single precision the converter casts to half and back, where values would overflow."""
    narrowed = {node.output[0]: node.input[0] for node in nodes if _casts_to(node, TensorProto.FLOAT16)}
    direct = [
        helper.make_node("Identity", [narrowed[node.input[0]]], list(node.output), name=node.name)
        if _casts_to(node, TensorProto.FLOAT) and node.input[0] in narrowed
        else node
        for node in nodes
    ]
    # ONNX Runtime would run casts whose results nobody takes any more.
    taken = {value for node in direct for value in node.input}
    return [node for node in direct if node.output[0] in taken or node.output[0] not in narrowed]


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(each.name == "to" and each.i == kind for each in node.attribute)
