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
from service.binding import Binding
from service.errors import DeviceUnavailable, UnusableModel
from service.preprocessing import Pixels
from service.providers import CPU, TENSORRT, GpuOptions, Provider, cuda, device_number, expected_provider, tensorrt
from service.recording import RecordingThread

logger = logging.getLogger(__name__)

ON_CPU_ALONE = GpuOptions()


@dataclass(frozen=True)
class Scores:
    """What the network says of a batch; both arrays are float32 (batch, classes), or (classes,) for one picture."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    @property
    def is_finite(self) -> bool:
        """Whether every value is a number."""
        return bool(np.isfinite(self.logits).all() and np.isfinite(self.probabilities).all())

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
    _binding: Binding | RecordingThread | None = None
    """On a GPU alone."""

    @classmethod
    def open(cls, path: Path, *, device: str, threads: int, gpu: GpuOptions = ON_CPU_ALONE) -> Self:
        """Load a model file.

        Args:
            path: an ONNX file written by the exporter.
            device: `auto` takes CUDA where it works, else the CPU; `cuda`, `tensorrt`, `cuda:N` and so on insist.
            threads: threads that one run may use on the CPU.
            gpu: how it runs on a GPU.

        Raises:
            UnusableModel: the file cannot be read, or is none of the exporter's.
            DeviceUnavailable: a GPU was asked for and does not work here.
        """
        try:
            path.open("rb").close()
        except OSError as error:  # onnxruntime would give its number
            raise UnusableModel(f"{path} cannot be loaded: {error.strerror}") from error
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        # Waiting threads that spin would take the cores that decoding needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        expected = expected_provider(device)
        options.intra_op_num_threads = threads if expected == CPU else 1
        providers = providers_of(path, device, gpu, expected)
        try:
            inference = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UnusableModel(f"{path} cannot be loaded: {error}") from error
        provider = inference.get_providers()[0]
        if provider != expected:
            if device != "auto":
                raise DeviceUnavailable(
                    f"--device {device} was asked for, but onnxruntime could not load its {expected} and would run "
                    f"on {provider}. Check nvidia-smi and the CUDA and cuDNN libraries, for tensorrt TensorRT 10 too "
                    "(onnxruntime's own message is above), or use --device cpu."
                )
            logger.warning("CUDA is compiled in but does not work here (onnxruntime's message is above); using the CPU")
            return cls.open(path, device="cpu", threads=threads)
        artifact = Artifact.from_metadata(inference.get_modelmeta().custom_metadata_map, str(path))
        _check_signature(inference, artifact, path)
        if provider == CPU:
            return cls(artifact, provider, inference)
        classes = artifact.architecture.num_classes
        binding = Binding(inference, classes=classes, device="cuda", number=device_number(device))
        return cls(artifact, provider, inference, RecordingThread(binding) if gpu.cuda_graphs else binding)

    def run(self, pixels: Pixels) -> Scores:
        """Classify a batch, uint8 (batch, size, size, 3). Raises what onnxruntime raises."""
        if self._binding is not None:
            return Scores(*self._binding.run(pixels))
        logits, probabilities = self._inference.run(["logits", "probabilities"], {"pixels": pixels})
        return Scores(logits, probabilities)

    def probe(self, batch: int = 1) -> None:
        """Classify that many blank pictures. Raises what onnxruntime does, or ArithmeticError for what is no number."""
        size = self.artifact.architecture.image_size
        if not self.run(np.zeros((batch, size, size, 3), dtype=np.uint8)).is_finite:
            raise ArithmeticError("the model gives no finite number for blank pictures")

    def release_memory(self) -> None:
        """Give back what larger batches than those to come have left set aside on the CPU.

        Source: onnxruntime's run option `memory.enable_memory_arena_shrinkage`.
        """
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        size = self.artifact.architecture.image_size
        blank = np.zeros((1, size, size, 3), dtype=np.uint8)
        self._inference.run(["logits", "probabilities"], {"pixels": blank}, options)


def providers_of(path: Path, device: str, gpu: GpuOptions, first: str) -> list[Provider]:
    """What onnxruntime is given: from the first choice on down to the CPU, which takes what the others do not know."""
    providers: list[Provider] = [(CPU, {})]
    if first != CPU:
        providers.insert(0, cuda(device, gpu))
    if first == TENSORRT:
        # TensorRT wants to know the pictures' size before the file is open on it.
        size = Session.open(path, device="cpu", threads=1).artifact.architecture.image_size
        providers.insert(0, tensorrt(path, device, gpu, size))
    return providers


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
