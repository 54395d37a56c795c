"""What NVML tells. There is no GPU where tests run, so a stand-in has two."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from service.gpu import GpuCollector


class GpuError(Exception):
    """The library's."""


class Nvml:
    """Stands in for the module `pynvml`."""

    NVMLError = GpuError
    init_error: GpuError | None = None
    broken_gpu: int | None = None

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise self.init_error

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == self.broken_gpu:
            raise GpuError("GPU is lost")
        return index

    def nvmlDeviceGetMemoryInfo(self, index: int) -> Any:
        return SimpleNamespace(total=80 * 2**30, used=(index + 1) * 2**30)

    def nvmlDeviceGetUtilizationRates(self, index: int) -> Any:
        return SimpleNamespace(gpu=25 * (index + 1), memory=1)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    stand_in = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    return stand_in


def values(collector: GpuCollector) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels["gpu"]): sample.value for family in collector.collect() for sample in family.samples
    }


def test_every_gpu_has_its_memory_and_utilisation(nvml: Nvml) -> None:
    assert values(GpuCollector()) == {
        ("stripmlp_gpu_memory_used_bytes", "0"): 2**30,
        ("stripmlp_gpu_memory_used_bytes", "1"): 2 * 2**30,
        ("stripmlp_gpu_memory_total_bytes", "0"): 80 * 2**30,
        ("stripmlp_gpu_memory_total_bytes", "1"): 80 * 2**30,
        ("stripmlp_gpu_utilisation_ratio", "0"): 0.25,
        ("stripmlp_gpu_utilisation_ratio", "1"): 0.5,
    }


def test_a_gpu_that_does_not_answer_leaves_the_others(nvml: Nvml, caplog: pytest.LogCaptureFixture) -> None:
    collector = GpuCollector()
    nvml.broken_gpu = 1

    assert {gpu for _, gpu in values(collector)} == {"0"}
    assert "GPU is lost" in caplog.text


def test_without_nvml_there_are_no_metrics_and_the_log_says_why(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.init_error = GpuError("Driver Not Loaded")
    assert values(GpuCollector()) == {}
    assert "no GPU metrics: Driver Not Loaded" in caplog.text

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert values(GpuCollector()) == {}
    assert "nvidia-ml-py is missing" in caplog.text
