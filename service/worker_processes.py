"""What several worker processes tell Prometheus about themselves as processes."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import Metric, ProcessCollector
from prometheus_client.registry import Collector

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that makes prometheus-client keep its values in files of a folder. It is read on import."""

OLDEST = "process_start_time_seconds"


class WorkerProcessCollector(Collector):
    """prometheus-client's `process_*` metrics, summed over all workers that live; of their starts the first.

    Args:
        folder: where the workers' metrics are, with each one's process id in the names.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        values: dict[str, list[float]] = {}
        for file in self._folder.glob("gauge_livesum_*.db"):
            pid = file.stem.rpartition("_")[2]
            for family in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                families[family.name] = family
                values.setdefault(family.name, []).extend(sample.value for sample in family.samples)
        for name, family in families.items():
            together = min(values[name]) if name == OLDEST else sum(values[name])
            family.samples = [family.samples[0]._replace(value=together)]
            yield family
