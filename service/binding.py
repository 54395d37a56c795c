"""Runs of a session on a GPU, whose inputs and outputs stay where they are: on the device, a set for each batch size.

Pixels go through page-locked memory. The copies run one after the other with the model; with two instances
(`--instances 2`) the one's copies run beside the other's arithmetic.
"""

from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.pinned import pinned_pixels
from service.preprocessing import Pixels


@dataclass(frozen=True)
class _Bound:
    """What one batch size has."""

    staged: Pixels
    """On the host, page-locked."""
    pixels: Any
    """On the device."""
    binding: Any
    options: Any
    """The run's."""


class Binding:
    """Runs an onnxruntime session on buffers of its own. Unlike `InferenceSession.run`, it never falls back to the CPU.

    `run` may be called from any thread; calls take turns.

    Args:
        inference: the session.
        classes: of the model.
        device: `cuda`, or `cpu` where there is no GPU.
        number: the GPU's.
    """

    def __init__(self, inference: Any, *, classes: int, device: str, number: int) -> None:
        self._inference = inference
        self._classes = classes
        self._device = device
        self._number = number
        self._bound: dict[tuple[int, ...], _Bound] = {}
        self._lock = Lock()

    def run(self, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Classify a batch, uint8 (batch, size, size, 3).

        The first run of a batch size allocates its buffers, which stay. Raises what onnxruntime raises.

        Returns:
            Logits and probabilities, float32 (batch, classes).
        """
        with self._lock:
            bound = self._bound.get(pixels.shape)
            if bound is None:
                bound = self._bound[pixels.shape] = self._bind(pixels.shape)
            bound.staged[:] = pixels
            bound.pixels.update_inplace(bound.staged)
            self._inference.run_with_iobinding(bound.binding, bound.options)
            logits, probabilities = bound.binding.copy_outputs_to_cpu()
            return logits, probabilities

    def _bind(self, shape: tuple[int, ...]) -> _Bound:
        binding = self._inference.io_binding()
        pixels = self._on_device(shape, np.uint8)
        binding.bind_ortvalue_input("pixels", pixels)
        for name in "logits", "probabilities":
            binding.bind_ortvalue_output(name, self._on_device((shape[0], self._classes), np.float32))
        options = onnxruntime.RunOptions()
        # Where CUDA graphs are on, each batch size has its own.
        options.add_run_config_entry("gpu_graph_id", str(shape[0]))
        return _Bound(pinned_pixels(shape), pixels, binding, options)

    def _on_device(self, shape: tuple[int, ...], kind: type[np.generic]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, self._device, self._number)
