"""GPUs that are the CPU: onnxruntime says that it runs on CUDA or TensorRT, and device memory is the CPU's."""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from service import binding
from service.providers import CPU, CUDA, TENSORRT, Provider


class SeemingCuda:
    """What was asked of it, and by how much its answers are off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[Provider]] = []
        """The providers of each session that was opened."""
        self.error = 0.0
        """Added to the first logit of whatever runs on it."""
        real_session, real_value = onnxruntime.InferenceSession, onnxruntime.OrtValue.ortvalue_from_shape_and_type

        def opened(path: str, options: Any, providers: list[Provider]) -> Any:
            self.asked.append(providers)
            inference = real_session(path, options, providers=[CPU])
            first, _ = providers[0]
            if first != CPU:
                inference.get_providers = lambda: [first, CPU]
                run = inference.run_with_iobinding
                inference.run_with_iobinding = lambda bound, options: self._harm(bound, run(bound, options))
            return inference

        def in_cpus_memory(shape: Any, kind: Any, _: str, __: int) -> Any:
            return real_value(shape, kind, "cpu", 0)

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
        monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", in_cpus_memory)
        monkeypatch.setattr(binding, "pinned_pixels", lambda shape: np.zeros(shape, np.uint8))
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "unset")  # so that a change does not outlive the test

    def _harm(self, bound: Any, _: None) -> None:
        logits, _probabilities = bound.get_outputs()
        values = logits.numpy()
        values[:, 0] += self.error
        logits.update_inplace(values)
