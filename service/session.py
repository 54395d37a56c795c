"""One ONNX Runtime session: a batch of pixels in, scores out.

Which provider really runs is read back from the session: `get_available_providers()` only says what was compiled
in, and onnxruntime falls back to the CPU by itself when CUDA cannot be loaded.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.artifact import Artifact
from service.errors import DeviceUnavailable, UnusableModel
from service.preprocessing import Pixels

logger = logging.getLogger(__name__)

DEVICE_PATTERN = r"^(auto|cpu|cuda|cuda:\d+(,cuda:\d+)*)$"
"""One device, or several CUDA devices by number."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}


@dataclass(frozen=True)
class Scores:
    """What the network says of a batch; both arrays are float32 (batch, classes), or (classes,) for one picture."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def row(self, index: int) -> "Scores":
        """One picture of the batch."""
        return Scores(self.logits[index], self.probabilities[index])


@dataclass(frozen=True)
class Session:
    """A loaded model. `run` may be called from any thread, and from several at once."""

    artifact: Artifact
    provider: str
    """The execution provider in use, as the session reports it."""
    _inference: Any

    @classmethod
    def open(cls, path: Path, *, device: str, threads: int) -> Self:
        """Load a model file.

        Args:
            path: an ONNX file written by the exporter.
            device: `auto` takes CUDA where it works, else the CPU; `cuda` and `cuda:N` insist.
            threads: threads that one run may use on the CPU.

        Raises:
            UnusableModel: the file cannot be read, or is none of the exporter's.
            DeviceUnavailable: `cuda` was asked for and does not work here.
        """
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        # Waiting threads that spin would take the cores that decoding needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wants_cuda = _wants_cuda(device)
        options.intra_op_num_threads = 1 if wants_cuda else threads
        try:
            inference = onnxruntime.InferenceSession(
                str(path), options, providers=[(CUDA, _cuda_options(device)), CPU] if wants_cuda else [CPU]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UnusableModel(f"{path} cannot be loaded: {error}") from error
        provider = inference.get_providers()[0]
        if wants_cuda and provider != CUDA:
            if device != "auto":
                raise DeviceUnavailable(
                    f"--device {device} was asked for, but onnxruntime could not load its CUDA provider and would run "
                    f"on {provider}. Check nvidia-smi and the CUDA and cuDNN libraries (its own message is above), "
                    "or use --device cpu."
                )
            logger.warning("CUDA is compiled in but does not work here (onnxruntime's message is above); using the CPU")
            return cls.open(path, device="cpu", threads=threads)
        artifact = Artifact.from_metadata(inference.get_modelmeta().custom_metadata_map, str(path))
        _check_signature(inference, artifact, path)
        return cls(artifact, provider, inference)

    def run(self, pixels: Pixels) -> Scores:
        """Classify a batch, uint8 (batch, size, size, 3). Raises what onnxruntime raises."""
        logits, probabilities = self._inference.run(["logits", "probabilities"], {"pixels": pixels})
        return Scores(logits, probabilities)

    def probe(self, batch: int = 1) -> None:
        """Classify that many blank pictures. Raises what onnxruntime raises."""
        size = self.artifact.architecture.image_size
        self.run(np.zeros((batch, size, size, 3), dtype=np.uint8))

    def release_memory(self) -> None:
        """Give back what larger batches than those to come have left set aside on the CPU.

        Source: onnxruntime's run option `memory.enable_memory_arena_shrinkage`.
        """
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        size = self.artifact.architecture.image_size
        blank = np.zeros((1, size, size, 3), dtype=np.uint8)
        self._inference.run(["logits", "probabilities"], {"pixels": blank}, options)


def _cuda_options(device: str) -> dict[str, str]:
    _, _, number = device.partition(":")
    return {**CUDA_OPTIONS, "device_id": number or "0"}


def expects_cuda(device: str) -> bool:
    """Whether a model should run on CUDA by `--device`, be it that `auto` finds a runtime that has it."""
    return device != "cpu" and (device != "auto" or CUDA in onnxruntime.get_available_providers())


def _wants_cuda(device: str) -> bool:
    if not expects_cuda(device):
        return False
    available = onnxruntime.get_available_providers()
    if CUDA in available:
        # Finds the CUDA and cuDNN wheels that the `gpu` extra installs.
        onnxruntime.preload_dlls()
        return True
    raise DeviceUnavailable(
        f"--device {device} was asked for, but the installed onnxruntime has only {', '.join(available)}. "
        "Install the 'gpu' extra in place of 'cpu', or use --device cpu."
    )


def _check_signature(inference: Any, artifact: Artifact, path: Path) -> None:
    size, classes = artifact.architecture.image_size, artifact.architecture.num_classes
    inputs = [(value.name, value.type, value.shape) for value in inference.get_inputs()]
    outputs = [(value.name, value.type, value.shape) for value in inference.get_outputs()]
    expected_inputs = [("pixels", "tensor(uint8)", ["batch", size, size, 3])]
    expected_outputs = [(name, "tensor(float)", ["batch", classes]) for name in ("logits", "probabilities")]
    if inputs != expected_inputs or outputs != expected_outputs:
        raise UnusableModel(
            f"{path} takes {inputs} and gives {outputs}, but its metadata promises {expected_inputs} and "
            f"{expected_outputs}. Export the checkpoint again with strip-mlp-export."
        )
