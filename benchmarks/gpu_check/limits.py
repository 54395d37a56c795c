"""What the device can do at most: the rate of a large matrix product, and of a large copy in its memory."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from benchmarks.gpu_check.records import Precision
from benchmarks.gpu_check.subjects import device_kind
from service.providers import CPU, GpuOptions, Provider, cuda, device_number

OPSET, IR_VERSION = 20, 9
"""Those of the exporter's files, whose module would import torch."""


@dataclass(frozen=True)
class Large:
    """One large operator, whose inputs and output stay on the device."""

    amount: float
    """Floating-point operations, or bytes read and written."""
    _session: Any
    _binding: Any

    @classmethod
    def product(cls, device: str, precision: Precision) -> Self:
        """A square matrix product."""
        side = 1024 if device == "cpu" else 8192
        kind = np.float16 if precision == "fp16" else np.float32
        return cls._open("MatMul", 2, side, kind, 2 * side**3, device, precision)

    @classmethod
    def copy(cls, device: str) -> Self:
        """Every value negated, as onnxruntime leaves out what only copies."""
        side = 1024 if device == "cpu" else 8192
        return cls._open("Neg", 1, side, np.float32, 2 * 4 * side**2, device, "fp32")

    @classmethod
    def _open(
        cls, operator: str, inputs: int, side: int, kind: type[np.floating], amount: float, device: str,
        precision: Precision,
    ) -> Self:  # fmt: skip
        names = [f"x{number}" for number in range(inputs)]
        element = TensorProto.FLOAT16 if kind is np.float16 else TensorProto.FLOAT
        values = [helper.make_tensor_value_info(name, element, [side, side]) for name in (*names, "y")]
        graph = helper.make_graph([helper.make_node(operator, names, ["y"])], operator, values[:-1], values[-1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        memory, number = device_kind(device), device_number(device)
        providers: list[Provider] = [(CPU, {})]
        if memory != "cpu":
            providers.insert(0, cuda(f"cuda:{number}", GpuOptions(tf32=precision == "tf32")))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        binding = session.io_binding()
        generator = np.random.default_rng(0)
        for name in names:
            array = generator.standard_normal((side, side), np.float32).astype(kind)
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, memory, number))
        result = onnxruntime.OrtValue.ortvalue_from_shape_and_type((side, side), kind, memory, number)
        binding.bind_ortvalue_output("y", result)
        return cls(amount, session, binding)

    def run(self) -> None:
        """Once, to its end."""
        self._session.run_with_iobinding(self._binding)
