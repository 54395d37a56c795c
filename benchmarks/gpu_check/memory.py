"""Whether memory stays flat over many runs of random batch sizes, padded as the service pads them."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from resource import getpagesize

import numpy as np

from benchmarks.gpu_check.nvml import device_memory
from benchmarks.gpu_check.records import MemoryRow
from benchmarks.gpu_check.subjects import Subject
from service.tuning import batch_sizes

LOOKS = 50
"""How often memory is looked at."""

GROWTH_MIB = 16
"""What may come on top after every size has run twice; a leak of 2 KiB a request would show."""


def watch_memory(subject: Subject, device: str, requests: int, largest: int) -> MemoryRow:
    """Run every size twice, then random ones. Raises what onnxruntime raises."""
    session = subject.open(device)
    size = session.artifact.architecture.image_size
    pixels = np.zeros((largest, size, size, 3), np.uint8)
    sizes = list(batch_sizes(largest))
    for each in (*sizes, *reversed(sizes)):
        session.run(pixels[:each])
    random = Random(0)  # noqa: S311, as sizes are no secret
    device_now = device_memory(device)
    on_device, on_host = [_mib(device_now)], [_host_mib()]
    for number in range(1, requests + 1):
        count = random.randint(1, largest)
        session.run(pixels[: next(each for each in sizes if each >= count)])
        if number % max(1, requests // LOOKS) == 0 or number == requests:
            on_device.append(_mib(device_now))
            on_host.append(_host_mib())
    told = [value for value in on_device if value is not None]
    return MemoryRow(
        model=subject.model,
        precision=subject.precision,
        requests=requests,
        device_first=told[0] if told else None,
        device_last=told[-1] if told else None,
        device_peak=max(told) if told else None,
        host_first=on_host[0],
        host_last=on_host[-1],
        host_peak=max(on_host),
        flat=all(values[-1] - values[0] <= GROWTH_MIB for values in (told, on_host) if values),
    )


def _mib(device_now: Callable[[], int] | None) -> float | None:
    return None if device_now is None else device_now() / 2**20


def _host_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * getpagesize() / 2**20
