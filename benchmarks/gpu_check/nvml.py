"""What NVML tells of the GPU, where the machine has it and nvidia-ml-py is installed."""

from collections.abc import Callable
from typing import Any

from service.providers import device_number


def gpu_name(device: str) -> str:
    """The GPU's name and driver, or why it is not known."""
    if device == "cpu":
        return "none"
    try:
        nvml = _opened()
    except Exception as error:  # the library's own errors can be named only where it is installed
        return f"unknown: {error}"
    name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(device_number(device)))
    return f"{name}, driver {nvml.nvmlSystemGetDriverVersion()}"


def device_memory(device: str) -> Callable[[], int] | None:
    """What tells the bytes in use on the GPU, by all processes; None where nothing does."""
    if device == "cpu":
        return None
    try:
        nvml = _opened()
    except Exception:  # as above
        return None
    handle = nvml.nvmlDeviceGetHandleByIndex(device_number(device))
    return lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def _opened() -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml
