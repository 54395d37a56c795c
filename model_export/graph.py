"""The simplified network as an ONNX graph, written node by node.

Writing the graph instead of tracing it keeps control over which operators run, and names each node after its
place in the network, which is what a profile shows.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from model_export.simplify import (
    Affine,
    SimplifiedChannelMixing,
    SimplifiedNetwork,
    SimplifiedTokenMixing,
    Weights,
)

OPSET = 20
"""The first ONNX opset with Gelu."""

IR_VERSION = 9
"""The IR version of opset 20 (ONNX 1.15)."""


def build_graph(network: SimplifiedNetwork) -> onnx.ModelProto:
    """The network in float32, without metadata.

    Returns:
        A model with the input `pixels`, uint8 (batch, size, size, 3) RGB, and the outputs `logits` and
        `probabilities`, float32 (batch, classes). The batch is dynamic.
    """
    size, classes = network.architecture.image_size, network.architecture.num_classes
    channels = network.architecture.embed_dim
    graph = _GraphBuilder()
    x = graph.node("Transpose", "pixels", name="input/to_nchw", perm=[0, 3, 1, 2])
    x = graph.node("Cast", x, name="input/to_float", to=TensorProto.FLOAT)
    x = graph.conv(x, network.patch_embed.weight, "patch_embed", bias=network.patch_embed.bias, stride=True)

    y1 = graph.conv(_stage(graph, x, network, 1), network.merging1, "merging1", stride=True)
    skip1_3 = graph.conv(y1, network.conv_s1_28, "conv_s1_28", groups=2 * channels, stride=True)
    skip1_4 = graph.conv(skip1_3, network.conv_s1_14, "conv_s1_14", groups=4 * channels, stride=True)
    y2 = graph.conv(_stage(graph, y1, network, 2), network.merging2, "merging2", stride=True)
    skip2_4 = graph.conv(y2, network.conv_s2_14, "conv_s2_14", groups=4 * channels, stride=True)
    x = graph.node("Add", y2, skip1_3, name="stage3/input")
    y3 = graph.conv(_stage(graph, x, network, 3), network.merging3, "merging3", stride=True)
    x = graph.node("Sum", y3, skip1_4, skip2_4, name="stage4/input")
    x = _stage(graph, x, network, 4)

    x = graph.node("ReduceMean", x, graph.ints([2, 3]), name="head/mean", keepdims=0)
    weight, bias = graph.weights(network.head.weight, "head/weight"), graph.weights(network.head.bias, "head/bias")
    graph.node("Gemm", x, weight, bias, name="head", output="logits")
    graph.node("Softmax", "logits", name="probabilities", output="probabilities", axis=1)

    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "strip_mlp",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", size, size, 3])],
            [
                helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes])
                for output in ("logits", "probabilities")
            ],
            graph.initializers,
        ),
        producer_name="strip-mlp-export",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


class _GraphBuilder:
    """Collects nodes and weights; every method returns the name of the value that it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._shared_ints: dict[tuple[int, ...], str] = {}

    def node(self, op_type: str, *inputs: str, name: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{name}/output"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def split(self, x: str, sections: int, name: str) -> list[str]:
        """Equal parts along the channels."""
        outputs = [f"{name}/{section}" for section in range(sections)]
        self.nodes.append(helper.make_node("Split", [x], outputs, name=name, axis=1, num_outputs=sections))
        return outputs

    def weights(self, values: ArrayLike, name: str) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32), name))
        return name

    def ints(self, values: list[int]) -> str:
        """A shape, axes or bounds; equal ones are stored once."""
        key = tuple(values)
        if key not in self._shared_ints:
            name = self._shared_ints[key] = "ints/" + "_".join(str(value) for value in values)
            self.initializers.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return self._shared_ints[key]

    def conv(
        self,
        x: str,
        weight: Weights,
        name: str,
        *,
        bias: Weights | None = None,
        groups: int = 1,
        stride: bool = False,
    ) -> str:
        """A convolution that keeps the map's size or, with `stride`, steps by its own kernel."""
        kernel = list(weight.shape[2:])
        inputs = [x, self.weights(weight, f"{name}/weight")]
        if bias is not None:
            inputs.append(self.weights(bias, f"{name}/bias"))
        rows, columns = (0, 0) if stride else (kernel[0] // 2, kernel[1] // 2)
        return self.node(
            "Conv",
            *inputs,
            name=name,
            kernel_shape=kernel,
            pads=[rows, columns, rows, columns],
            strides=kernel if stride else [1, 1],
            group=groups,
        )

    def depthwise(self, x: str, weight: Weights, name: str) -> str:
        return self.conv(x, weight, name, groups=len(weight))

    def linear(self, x: str, affine: Affine, name: str) -> str:
        """(…, in) to (…, out)."""
        x = self.node("MatMul", x, self.weights(affine.weight, f"{name}/weight"), name=name)
        return self.node("Add", x, self.weights(affine.bias, f"{name}/bias"), name=f"{name}/add_bias")


def _stage(graph: _GraphBuilder, x: str, network: SimplifiedNetwork, stage: int) -> str:
    for index, block in enumerate(network.stages[stage - 1]):
        name = f"stage{stage}/block{index}"
        x = _token_mixing(graph, x, block.tokens, f"{name}/tokens")
        x = _channel_mixing(graph, x, block.channels, f"{name}/channels")
    return x


def _token_mixing(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    residual = x
    x = graph.node("Mul", x, graph.weights(weights.entry_scale, f"{name}/entry/scale"), name=f"{name}/entry/mul")
    x = graph.node("Add", x, graph.weights(weights.entry_shift, f"{name}/entry/shift"), name=f"{name}/entry/add")
    x = graph.node("Gelu", x, name=f"{name}/entry/gelu")
    x = graph.depthwise(x, weights.entry_conv, f"{name}/entry/conv")
    x = graph.conv(x, weights.spread.weight, f"{name}/spread", bias=weights.spread.bias)
    x = graph.node("Gelu", x, name=f"{name}/spread/gelu")
    first, second = graph.split(x, 2, f"{name}/halves")
    columns = _strips(graph, first, weights, f"{name}/strips")
    local = _local_mixing(graph, second, weights, f"{name}/local")
    x = graph.node("Concat", first, columns, local, name=f"{name}/concat", axis=1)
    x = graph.conv(x, weights.fuse, f"{name}/fuse")
    return graph.node(
        "Sum", x, graph.weights(weights.output_map, f"{name}/output_map"), residual, name=f"{name}/residual"
    )


def _strips(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    """Rows, then columns, of the first half; both are batched matrix products of (batch, shared, group)."""
    groups, side, _ = weights.column_strips.shape
    channels = len(weights.row_map)
    grouped, flat = graph.ints([0, channels // groups, groups, side, side]), graph.ints([0, channels, side, side])

    rows = graph.node("Reshape", x, grouped, name=f"{name}/rows/group")
    rows = _with_neighbours(graph, rows, side, f"{name}/rows", shifted_axis=3, stacked_axis=4)
    rows = graph.node("MatMul", rows, graph.weights(weights.row_strips, f"{name}/rows/weight"), name=f"{name}/rows/mix")
    rows = graph.node("Reshape", rows, flat, name=f"{name}/rows/ungroup")
    x = graph.node("Concat", rows, x, name=f"{name}/rows/concat", axis=1)
    x = graph.conv(x, weights.row_fuse, f"{name}/rows/fuse")
    x = graph.node("Add", x, graph.weights(weights.row_map, f"{name}/rows/map"), name=f"{name}/rows/add_map")
    x = graph.node("Gelu", x, name=f"{name}/rows/gelu")

    x = graph.node("Reshape", x, grouped, name=f"{name}/columns/group")
    x = _with_neighbours(graph, x, side, f"{name}/columns", shifted_axis=4, stacked_axis=3)
    x = graph.node(
        "MatMul", graph.weights(weights.column_strips, f"{name}/columns/weight"), x, name=f"{name}/columns/mix"
    )
    return graph.node("Reshape", x, flat, name=f"{name}/columns/ungroup")


def _with_neighbours(
    graph: _GraphBuilder, x: str, side: int, name: str, *, shifted_axis: int, stacked_axis: int
) -> str:
    """Stack, along one axis of five, each line's predecessor along the other, itself and its successor."""
    pads = [int(axis == shifted_axis) for axis in range(5)]
    padded = graph.node("Pad", x, graph.ints(pads + pads), name=f"{name}/pad")
    axis, start, end = graph.ints([shifted_axis]), graph.ints([0]), graph.ints([side])
    before = graph.node("Slice", padded, start, end, axis, name=f"{name}/before")
    after = graph.node("Slice", padded, graph.ints([2]), graph.ints([side + 2]), axis, name=f"{name}/after")
    return graph.node("Concat", before, x, after, name=f"{name}/neighbours", axis=stacked_axis)


def _local_mixing(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    channels = len(weights.local_wide)
    wide = graph.depthwise(x, weights.local_wide, f"{name}/wide")
    tall = graph.depthwise(x, weights.local_tall, f"{name}/tall")
    total = graph.node("Sum", tall, wide, x, name=f"{name}/sum")
    weigh = graph.node("ReduceMean", total, graph.ints([2, 3]), name=f"{name}/mean", keepdims=0)
    weigh = graph.linear(weigh, weights.reweight1, f"{name}/reweight1")
    weigh = graph.node("Gelu", weigh, name=f"{name}/reweight1/gelu")
    weigh = graph.linear(weigh, weights.reweight2, f"{name}/reweight2")
    weigh = graph.node("Reshape", weigh, graph.ints([0, 3, channels]), name=f"{name}/branches")
    weigh = graph.node("Softmax", weigh, name=f"{name}/softmax", axis=1)
    weigh = graph.node("Reshape", weigh, graph.ints([0, 3 * channels, 1, 1]), name=f"{name}/per_channel")
    branches = zip((tall, wide, x), graph.split(weigh, 3, f"{name}/weights"), strict=True)
    weighed = [graph.node("Mul", *branch, name=f"{name}/weigh{index}") for index, branch in enumerate(branches)]
    return graph.node("Sum", *weighed, name=f"{name}/output")


def _channel_mixing(graph: _GraphBuilder, x: str, weights: SimplifiedChannelMixing, name: str) -> str:
    residual = x
    x = graph.depthwise(x, weights.conv, f"{name}/conv")
    x = graph.node("Transpose", x, name=f"{name}/to_nhwc", perm=[0, 2, 3, 1])
    ones = graph.weights(np.ones(len(weights.conv)), f"{name}/norm/ones")
    x = graph.node("LayerNormalization", x, ones, name=f"{name}/norm", axis=-1, epsilon=weights.norm_epsilon)
    x = graph.linear(x, weights.expand, f"{name}/expand")
    x = graph.node("Gelu", x, name=f"{name}/gelu")

    response = graph.node("ReduceL2", x, graph.ints([1, 2]), name=f"{name}/response/norm", keepdims=1)
    mean = graph.node("ReduceMean", response, graph.ints([3]), name=f"{name}/response/mean", keepdims=1)
    epsilon = graph.weights(weights.response_epsilon, f"{name}/response/epsilon")
    mean = graph.node("Add", mean, epsilon, name=f"{name}/response/add_epsilon")
    gain = graph.node("Div", response, mean, name=f"{name}/response/divide")
    gamma = graph.weights(weights.response_gain, f"{name}/response/gamma")
    gain = graph.node("Mul", gain, gamma, name=f"{name}/response/scale")
    gain = graph.node("Add", gain, graph.weights(1.0, f"{name}/response/one"), name=f"{name}/response/gain")
    x = graph.node("Mul", x, gain, name=f"{name}/response/apply")

    x = graph.linear(x, weights.contract, f"{name}/contract")
    x = graph.node("Transpose", x, name=f"{name}/to_nchw", perm=[0, 3, 1, 2])
    return graph.node("Add", x, residual, name=f"{name}/residual")
