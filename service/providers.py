"""Execution providers: which ones a session gets, and with which options, by `--device`.

Source of the options: onnxruntime's documentation, "CUDA Execution Provider" and "TensorRT Execution Provider".
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from service.errors import DeviceUnavailable

DEVICE_PATTERN = r"^(auto|cpu|cuda|cuda:\d+(,cuda:\d+)*|tensorrt|tensorrt:\d+(,tensorrt:\d+)*)$"
"""One device, or several GPUs by number."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

Provider = tuple[str, dict[str, str]]
"""A provider's name and options, as onnxruntime takes them."""


@dataclass(frozen=True)
class GpuOptions:
    """How models run on a GPU; the CPU minds none of it."""

    tf32: bool = False
    """Whether float32 products may round their factors to 10 bits of mantissa."""
    cuda_graphs: bool = False
    """Whether the kernels of each batch size are recorded once and launched as one from then on."""
    engine_cache: Path | None = None
    """Folder where TensorRT keeps what it built; without one it builds anew at each start."""
    largest_batch: int = 32
    """Most pictures of a run, for which TensorRT has to build."""


def expects_cuda(device: str) -> bool:
    """Whether a model should run on a GPU by `--device`, be it that `auto` finds a runtime that has CUDA."""
    return device != "cpu" and (device != "auto" or CUDA in onnxruntime.get_available_providers())


def device_number(device: str) -> int:
    """The GPU that a device names, the first where it names none."""
    _, _, number = device.partition(":")
    return int(number or 0)


def expected_provider(device: str) -> str:
    """The provider that a session on this device must report, after whose libraries were looked for.

    Raises:
        DeviceUnavailable: a GPU was asked for by name, and the installed onnxruntime has no such provider.
    """
    if not expects_cuda(device):
        return CPU
    provider = TENSORRT if device.startswith("tensorrt") else CUDA
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise DeviceUnavailable(
            f"--device {device} was asked for, but the installed onnxruntime has only {', '.join(available)}. "
            "Install the 'gpu' extra in place of 'cpu', or use --device cpu."
        )
    # Finds the CUDA and cuDNN wheels that the `gpu` extra installs.
    onnxruntime.preload_dlls()
    return provider


def cuda(device: str, gpu: GpuOptions) -> Provider:
    """CUDA's provider. Each option's reason is in docs/gpu.md."""
    return CUDA, {
        "device_id": str(device_number(device)),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": _switch(gpu.tf32),
        "enable_cuda_graph": _switch(gpu.cuda_graphs),
    }


def tensorrt(path: Path, device: str, gpu: GpuOptions, image_size: int) -> Provider:
    """TensorRT's provider for a model file, for any batch up to the largest without building again."""
    if not gpu.tf32:
        # The provider has no option for it, and TensorRT takes TF32 unless this variable forbids it.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    options = {
        "device_id": str(device_number(device)),
        "trt_cuda_graph_enable": _switch(gpu.cuda_graphs),
        "trt_profile_min_shapes": _shape(1, image_size),
        "trt_profile_opt_shapes": _shape(gpu.largest_batch, image_size),
        "trt_profile_max_shapes": _shape(gpu.largest_batch, image_size),
    }
    if gpu.engine_cache is not None:
        engines = _engines(path, gpu.engine_cache, tf32=gpu.tf32)
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(gpu.engine_cache),
        }
    return TENSORRT, options


def _engines(path: Path, cache: Path, *, tf32: bool) -> Path:
    """A folder for this file alone: onnxruntime names engines by the graph, not by its weights or by TF32.

    Source: onnxruntime's `TRTGenerateId`; its issues 6455 and 32254 tell what comes of it.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache / f"{digest[:16]}{'-tf32' if tf32 else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _switch(on: bool) -> str:
    return "1" if on else "0"


def _shape(batch: int, image_size: int) -> str:
    return f"pixels:{batch}x{image_size}x{image_size}x3"
