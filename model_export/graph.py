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
    # In this order, as TensorRT takes bytes into a cast and into nothing else.
    x = graph.node("Cast", "pixels", name="input/to_float", to=TensorProto.FLOAT)
    x = graph.to_nchw(x, "input/to_nchw")
    x = graph.biased_conv(x, network.patch_embed, "patch_embed", stride=True)

    y1 = graph.biased_conv(_stage(graph, x, network, 1), network.merging1, "merging1", stride=True)
    skip1_3 = graph.conv(y1, network.conv_s1_28, "conv_s1_28", groups=2 * channels, stride=True)
    skip1_4 = graph.conv(skip1_3, network.conv_s1_14, "conv_s1_14", groups=4 * channels, stride=True)
    y2 = graph.biased_conv(_stage(graph, y1, network, 2), network.merging2, "merging2", stride=True)
    skip2_4 = graph.conv(y2, network.conv_s2_14, "conv_s2_14", groups=4 * channels, stride=True)
    x = graph.node("Add", y2, skip1_3, name="stage3/input")
    y3 = graph.biased_conv(_stage(graph, x, network, 3), network.merging3, "merging3", stride=True)
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
        self._shared_ints: set[str] = set()

    def node(self, op_type: str, *inputs: str, name: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{name}/output"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def split(self, x: str, sections: int, name: str) -> list[str]:
        """Equal parts along the channels."""
        outputs = [f"{name}/{section}" for section in range(sections)]
        self.nodes.append(helper.make_node("Split", [x], outputs, name=name, axis=1, num_outputs=sections))
        return outputs

    def to_nhwc(self, x: str, name: str) -> str:
        return self.node("Transpose", x, name=name, perm=[0, 2, 3, 1])

    def to_nchw(self, x: str, name: str) -> str:
        return self.node("Transpose", x, name=name, perm=[0, 3, 1, 2])

    def weights(self, values: ArrayLike, name: str) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32), name))
        return name

    def ints(self, values: ArrayLike, name: str | None = None) -> str:
        """A shape, axes, bounds or indices; those of one name, by default their values, are stored once."""
        array = np.asarray(values, dtype=np.int64)
        name = name or "ints/" + "_".join(map(str, array))
        if name not in self._shared_ints:
            self._shared_ints.add(name)
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

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

    def biased_conv(self, x: str, affine: Affine, name: str, *, stride: bool = False) -> str:
        return self.conv(x, affine.weight, name, bias=affine.bias, stride=stride)

    def depthwise(self, x: str, weight: Weights, name: str) -> str:
        return self.conv(x, weight, name, groups=len(weight))

    def linear(self, x: str, affine: Affine, name: str) -> str:
        """(…, in) to (…, out)."""
        x = self.node("MatMul", x, self.weights(affine.weight, f"{name}/weight"), name=name)
        return self.node("Add", x, self.weights(affine.bias, f"{name}/bias"), name=f"{name}/add_bias")


def _stage(graph: _GraphBuilder, x: str, network: SimplifiedNetwork, stage: int) -> str:
    """NCHW in and out; within a stage the residual is NHWC, as the matrix products of the channel mixing want it."""
    side = network.architecture.stage_side(stage)
    x = graph.to_nhwc(x, f"stage{stage}/to_nhwc")
    for index, block in enumerate(network.stages[stage - 1]):
        name = f"stage{stage}/block{index}"
        x = _token_mixing(graph, x, block.tokens, f"{name}/tokens")
        x = _channel_mixing(graph, x, block.channels, side, f"{name}/channels")
    return graph.to_nchw(x, f"stage{stage}/to_nchw")


def _token_mixing(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    residual = x
    x = graph.node("Mul", x, graph.weights(weights.entry_scale, f"{name}/entry/scale"), name=f"{name}/entry/mul")
    x = graph.node("Add", x, graph.weights(weights.entry_shift, f"{name}/entry/shift"), name=f"{name}/entry/add")
    x = graph.node("Gelu", x, name=f"{name}/entry/gelu")
    x = graph.to_nchw(x, f"{name}/entry/to_nchw")
    x = graph.depthwise(x, weights.entry_conv, f"{name}/entry/conv")
    x = graph.biased_conv(x, weights.spread, f"{name}/spread")
    x = graph.node("Gelu", x, name=f"{name}/spread/gelu")
    first, second = graph.split(x, 2, f"{name}/halves")
    columns = _strips(graph, first, weights, f"{name}/strips")
    local = _local_mixing(graph, second, weights, f"{name}/local")
    x = graph.node("Concat", first, columns, local, name=f"{name}/concat", axis=1)
    x = graph.conv(x, weights.fuse, f"{name}/fuse")
    x = graph.to_nhwc(x, f"{name}/fuse/to_nhwc")
    output_map = graph.weights(weights.output_map.transpose(1, 2, 0), f"{name}/output_map")
    return graph.node("Sum", x, output_map, residual, name=f"{name}/residual")


def _strips(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    """Rows, then columns, of the first half."""
    rows = _mix_rows(graph, x, weights, f"{name}/rows")
    x = graph.node("Concat", rows, x, name=f"{name}/rows/concat", axis=1)
    x = graph.conv(x, weights.row_fuse, f"{name}/rows/fuse")
    x = graph.node("Add", x, graph.weights(weights.row_map, f"{name}/rows/map"), name=f"{name}/rows/add_map")
    x = graph.node("Gelu", x, name=f"{name}/rows/gelu")
    return _mix_columns(graph, x, weights, f"{name}/columns")


def _mix_rows(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    """Every row to a row that also sees its neighbours: a batched product of rows laid one after the other."""
    groups, side = weights.row_strips.shape[:2]
    channels = len(weights.row_map)
    x = graph.node("Reshape", x, graph.ints([0, channels // groups, groups, side, side]), name=f"{name}/group")
    x = graph.node("Pad", x, graph.ints([0, 0, 0, 1, 0] * 2), name=f"{name}/pad")
    neighbours = graph.ints(np.arange(side)[:, None] + np.arange(3), f"neighbours/{side}")
    x = graph.node("Gather", x, neighbours, name=f"{name}/neighbours", axis=3)
    x = graph.node("Reshape", x, graph.ints([0, channels // groups, groups, side, 3 * side]), name=f"{name}/lines")
    weight = weights.row_strips.transpose(0, 3, 2, 1).reshape(groups, 3 * side, side)
    x = graph.node("MatMul", x, graph.weights(weight, f"{name}/mix/weight"), name=f"{name}/mix")
    return graph.node("Reshape", x, graph.ints([0, channels, side, side]), name=f"{name}/ungroup")


def _mix_columns(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    """Every column likewise: a convolution whose channels are the rows, which needs no copies of neighbours."""
    groups, side = weights.column_strips.shape[:2]
    channels = len(weights.row_map)
    weight = np.tile(weights.column_strips, (channels // groups, 1, 1, 1)).reshape(channels * side, side, 1, 3)
    x = graph.node("Reshape", x, graph.ints([0, channels * side, 1, side]), name=f"{name}/rows_as_channels")
    x = graph.conv(x, weight, f"{name}/mix", groups=channels)
    return graph.node("Reshape", x, graph.ints([0, channels, side, side]), name=f"{name}/map_shape")


def _local_mixing(graph: _GraphBuilder, x: str, weights: SimplifiedTokenMixing, name: str) -> str:
    channels = len(weights.local_wide)
    wide = graph.depthwise(x, weights.local_wide, f"{name}/wide")
    tall = graph.depthwise(x, weights.local_tall, f"{name}/tall")
    total = graph.node("Sum", tall, wide, x, name=f"{name}/sum")
    weigh = graph.node("GlobalAveragePool", total, name=f"{name}/mean")
    weigh = graph.node("Flatten", weigh, name=f"{name}/mean/flat")
    weigh = graph.linear(weigh, weights.reweight1, f"{name}/reweight1")
    weigh = graph.node("Gelu", weigh, name=f"{name}/reweight1/gelu")
    weigh = graph.linear(weigh, weights.reweight2, f"{name}/reweight2")
    weigh = graph.node("Reshape", weigh, graph.ints([0, 3, channels]), name=f"{name}/branches")
    weigh = graph.node("Softmax", weigh, name=f"{name}/softmax", axis=1)
    weigh = graph.node("Reshape", weigh, graph.ints([0, 3 * channels, 1, 1]), name=f"{name}/per_channel")
    branches = zip((tall, wide, x), graph.split(weigh, 3, f"{name}/weights"), strict=True)
    weighed = [graph.node("Mul", *branch, name=f"{name}/weigh{index}") for index, branch in enumerate(branches)]
    return graph.node("Sum", *weighed, name=f"{name}/output")


def _channel_mixing(graph: _GraphBuilder, x: str, weights: SimplifiedChannelMixing, side: int, name: str) -> str:
    residual = x
    channels, pixels = len(weights.conv), side * side
    x = graph.depthwise(graph.to_nchw(x, f"{name}/to_nchw"), weights.conv, f"{name}/conv")
    x = graph.to_nhwc(x, f"{name}/to_nhwc")
    ones = graph.weights(np.ones(channels), f"{name}/norm/ones")
    x = graph.node("LayerNormalization", x, ones, name=f"{name}/norm", axis=-1, epsilon=weights.norm_epsilon)
    x = graph.node("Reshape", x, graph.ints([0, pixels, channels]), name=f"{name}/pixels")
    x = graph.linear(x, weights.expand, f"{name}/expand")
    x = graph.node("Gelu", x, name=f"{name}/gelu")

    # A product with ones adds up the squares three times as fast as ONNX Runtime's ReduceL2.
    squares = graph.node("Mul", x, x, name=f"{name}/response/square")
    ones = graph.weights(np.ones((1, pixels)), f"{name}/response/ones")
    squares = graph.node("MatMul", ones, squares, name=f"{name}/response/sum")
    response = graph.node("Sqrt", squares, name=f"{name}/response/norm")
    mean = graph.node("ReduceMean", response, graph.ints([2]), name=f"{name}/response/mean", keepdims=1)
    epsilon = graph.weights(weights.response_epsilon, f"{name}/response/epsilon")
    mean = graph.node("Add", mean, epsilon, name=f"{name}/response/add_epsilon")
    gain = graph.node("Div", response, mean, name=f"{name}/response/divide")
    gamma = graph.weights(weights.response_gain, f"{name}/response/gamma")
    gain = graph.node("Mul", gain, gamma, name=f"{name}/response/scale")
    gain = graph.node("Add", gain, graph.weights(1.0, f"{name}/response/one"), name=f"{name}/response/gain")
    x = graph.node("Mul", x, gain, name=f"{name}/response/apply")

    x = graph.node("MatMul", x, graph.weights(weights.contract, f"{name}/contract/weight"), name=f"{name}/contract")
    x = graph.node("Reshape", x, graph.ints([0, side, side, channels]), name=f"{name}/map_shape")
    return graph.node("Add", x, residual, name=f"{name}/residual")
