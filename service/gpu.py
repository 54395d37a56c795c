"""Memory and utilisation of the machine's GPUs, from NVML."""

import logging
from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)


class GpuCollector(Collector):
    """One series for each GPU that NVML shows, by NVML's index. Asks when scraped.

    Source: NVML API reference, `nvmlDeviceGetMemoryInfo`, `nvmlDeviceGetUtilizationRates`.
    """

    def __init__(self) -> None:
        self._nvml = _open_nvml()

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("stripmlp_gpu_memory_used_bytes", "Memory of the GPU in use.", labels=["gpu"])
        total = GaugeMetricFamily("stripmlp_gpu_memory_total_bytes", "Memory of the GPU.", labels=["gpu"])
        busy = GaugeMetricFamily(
            "stripmlp_gpu_utilisation_ratio",
            "Share of NVML's last sample period (up to a second) in which a kernel ran.",
            labels=["gpu"],
        )
        if self._nvml is not None:
            try:
                for index in range(self._nvml.nvmlDeviceGetCount()):
                    device = self._nvml.nvmlDeviceGetHandleByIndex(index)
                    memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
                    used.add_metric([str(index)], memory.used)
                    total.add_metric([str(index)], memory.total)
                    busy.add_metric([str(index)], self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
            except self._nvml.NVMLError:
                logger.exception("NVML does not answer; the GPU's metrics are incomplete")
        yield from (used, total, busy)


def _open_nvml() -> Any:
    """The NVML module, or None, after saying why, where it does not work: models may run on CUDA all the same."""
    try:
        import pynvml
    except ImportError:
        logger.warning("no GPU metrics: nvidia-ml-py is missing, which the 'gpu' extra brings")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.warning("no GPU metrics: %s", error)
        return None
    return pynvml
