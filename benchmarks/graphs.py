"""The files whose speed is compared: one network, as this project exports it and as PyTorch's own exporter does."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from model_export.export import IMAGENET_MEAN, IMAGENET_STD
from model_export.graph import IR_VERSION, OPSET, build_graph
from model_export.network import StripMLP
from model_export.quantisation import Quantiser
from model_export.simplify import simplify
from model_export.variants import Variant
from service.artifact import Preprocessing

SIZE = 224

PREPROCESSING = Preprocessing(
    image_size=SIZE, resize_side=256, crop=True, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
)

PRODUCT_SIDE = 1024
"""From here on the rate of a product does not rise any more, and it is still short beside one picture."""

PRODUCT_OPERATIONS = 2 * PRODUCT_SIDE**3


@dataclass(frozen=True)
class Case:
    """A session with one thread, and what it is given."""

    session: Any
    name: str
    array: NDArray[np.generic]

    @classmethod
    def open(cls, model: str | bytes, array: NDArray[np.generic]) -> Self:
        """Open a model of one input, by its path or its content."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return cls(session, session.get_inputs()[0].name, array)

    def run(self) -> None:
        """Run it once."""
        self.session.run(None, {self.name: self.array})


def random_network(variant: Variant) -> StripMLP:
    """A network with random weights, the same at every call."""
    torch.manual_seed(0)
    return StripMLP(variant.architecture()).eval()


@torch.no_grad()
def operations(network: StripMLP) -> int:
    """Floating-point operations of the convolutions and matrix products on one picture, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, SIZE, SIZE))
    return int(counter.get_total_flops())


def exported(network: StripMLP) -> onnx.ModelProto:
    """The graph of this project's exporter, for any batch of pixels."""
    double = StripMLP(network.architecture).double().eval()
    double.load_state_dict(network.state_dict())
    return build_graph(simplify(double, PREPROCESSING))


def in_8_bits(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same with all products quantised that an export may quantise; noise calibrates it, for its speed alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    quantiser = Quantiser.calibrated(graph, pixels)
    return quantiser.quantised(quantiser.groups)


def plainly_exported(network: StripMLP, path: Path, batch: int) -> Path:
    """Written by PyTorch's exporter, from normalised pixels to logits; its traced graph holds for one batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the exporter by tracing is old, and that a trace holds for one size
        torch.onnx.export(network, (torch.zeros(batch, 3, SIZE, SIZE),), path, opset_version=OPSET, dynamo=False)
    return path


def product() -> Case:
    """A large matrix product, whose rate is the one that nothing in a network is expected to exceed."""
    values = np.random.default_rng(0).normal(size=(2, PRODUCT_SIDE, PRODUCT_SIDE)).astype(np.float32)
    shape = [PRODUCT_SIDE, PRODUCT_SIDE]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values[1], "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return Case.open(model.SerializeToString(), values[0])
