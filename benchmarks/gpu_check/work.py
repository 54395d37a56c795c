"""The arithmetic and the memory traffic of a graph, counted from its shapes."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, helper, shape_inference

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """Of one run on one picture."""

    operations: int
    """Floating-point operations of convolutions and matrix products, two for a multiply-add."""
    bytes: int
    """What all operators together write and then read once, if none is fused with another; weights are left out."""


def work_of(path: Path) -> Work:
    """Count a file of the exporter.

    Raises:
        ValueError: a value's shape does not follow from the graph.
    """
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    # With values, so that the shapes that reshapes compute are known.
    model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes, sizes = {}, {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        tensor = value.type.tensor_type
        shapes[value.name] = tuple(dimension.dim_value for dimension in tensor.shape.dim)
        sizes[value.name] = prod(shapes[value.name]) * _bytes_of(tensor.elem_type)
    shapes |= {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    results = [name for node in model.graph.node for name in node.output if name]
    if unknown := [name for name in results if name not in sizes or 0 in shapes[name]]:
        raise ValueError(f"{path}: no shape follows for {', '.join(unknown[:3])}")
    return Work(sum(_operations(node, shapes) for node in model.graph.node), 2 * sum(sizes[name] for name in results))


def _operations(node: NodeProto, shapes: dict[str, Shape]) -> int:
    result = prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return 2 * result * prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return 2 * result * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        turned = any(each.name == "transA" and each.i for each in node.attribute)
        return 2 * result * shapes[node.input[0]][0 if turned else 1]
    return 0


def _bytes_of(kind: int) -> int:
    assert kind != TensorProto.UNDEFINED
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
