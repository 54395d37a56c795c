"""How fast models run on the device, by batch size, and what share of the device's limits that is."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median, quantiles

import numpy as np

from benchmarks.gpu_check.limits import Large
from benchmarks.gpu_check.records import SpeedRow
from benchmarks.gpu_check.subjects import Subject
from benchmarks.gpu_check.work import work_of
from benchmarks.rounds import milliseconds

PRODUCT, COPY = "product", "copy"


def measure_speed(subject: Subject, device: str, batches: Sequence[int], rounds: int) -> list[SpeedRow]:
    """Every batch size, a large product and a large copy in turns. Raises what onnxruntime raises."""
    session = subject.open(device)
    size = session.artifact.architecture.image_size
    product, copy = Large.product(device, subject.precision), Large.copy(device)
    works: dict[str, Callable[[], object]] = {PRODUCT: product.run, COPY: copy.run}
    generator = np.random.default_rng(0)
    for batch in batches:
        pixels = generator.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        works[str(batch)] = partial(session.run, pixels)
        works[str(batch)]()  # sets buffers up, searches algorithms
    times = milliseconds(works, rounds, f"{subject.model} {subject.precision}")
    work = work_of(subject.path)
    product_rate = product.amount / median(times[PRODUCT])
    copy_rate = copy.amount / median(times[COPY])
    rows = []
    for batch in batches:
        taken = times[str(batch)]
        p50 = median(taken)
        rows.append(
            SpeedRow(
                model=subject.model,
                precision=subject.precision,
                batch=batch,
                p50_ms=p50,
                p95_ms=quantiles(taken, n=20)[-1] if len(taken) > 1 else p50,
                per_second=1000 * batch / p50,
                teraflops=batch * work.operations / p50 / 1e9,
                of_product=batch * work.operations / product_rate / p50,
                of_copy=batch * work.bytes / copy_rate / p50,
                product_teraflops=product_rate / 1e9,
                copy_gigabytes=copy_rate / 1e6,
            )
        )
    return rows
