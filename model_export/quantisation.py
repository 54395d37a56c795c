"""The graph with 8-bit products, for CPUs with VNNI: static, QDQ, weights by output channel.

Quantised are the products that hold nearly all of the arithmetic: the matrix products of the channel mixing and the
1x1 and merging convolutions. Depthwise convolutions and strips stay as they are: they would be slower (measured with
ONNX Runtime 1.31). Activations are unsigned, weights signed. Where the CPU has no VNNI, sums of two such products can
saturate, and answers differ from those that were checked.
"""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)

from service.preprocessing import Pixels

PLACES = {
    "channels/expand": "MatMul",
    "channels/contract": "MatMul",
    "tokens/spread": "Conv",
    "tokens/strips/rows/fuse": "Conv",
    "tokens/fuse": "Conv",
}
"""Of a block's nodes, with the kind of each."""

BATCH = 8


@dataclass(frozen=True)
class Group:
    """Products that are quantised together or not at all: those of one kind in one stage."""

    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Quantiser:
    """A graph in single precision, and the range of every activation on the pictures for calibration."""

    groups: tuple[Group, ...]
    _model: onnx.ModelProto
    _ranges: Any

    @classmethod
    def calibrated(cls, model: onnx.ModelProto, pixels: Pixels) -> Self:
        """Run pixels, uint8 (pictures, size, size, 3), through a graph from `build_graph`."""
        with tempfile.TemporaryDirectory(prefix="calibration-") as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            calibrator = create_calibrator(
                path,
                op_types_to_calibrate=sorted(set(PLACES.values())),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(_Batches(pixels))
            ranges = calibrator.compute_data()
        return cls(_groups(model), model, ranges)

    def quantised(self, groups: Collection[Group]) -> onnx.ModelProto:
        """A copy of the graph, which the library makes itself, with these groups in 8 bits."""
        quantizer = QDQQuantizer(
            self._model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=[node for group in groups for node in group.nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(set(PLACES.values())),
            # A matrix product then ends in floats by itself, which costs neither time nor accuracy.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised: onnx.ModelProto = quantizer.model.model
        return quantised


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, pixels: Pixels) -> None:
        self._batches = iter(np.array_split(pixels, -(-len(pixels) // BATCH)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _groups(model: onnx.ModelProto) -> tuple[Group, ...]:
    members: dict[str, list[str]] = {}
    for node in model.graph.node:
        stage, _, place = node.name.partition("/")
        _, _, place = place.partition("/")
        if PLACES.get(place) == node.op_type:
            members.setdefault(f"{stage}/{place}", []).append(node.name)
        elif node.op_type == "Conv" and node.name.startswith("merging"):
            members[node.name] = [node.name]
    return tuple(Group(name, tuple(nodes)) for name, nodes in members.items())
