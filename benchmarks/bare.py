"""What no server can beat: the bare session at every batch size, and the CPU time of decoding a picture.

Run as `python -m benchmarks.bare JOB RESULT`, a process of its own so that nothing else shares its interpreter.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from benchmarks.model import ModelFile
from benchmarks.peers.common import Contract, Model
from benchmarks.records import Bare, DecodeCost, SessionRate
from service.artifact import Preprocessing
from service.decoding import PILLOWS_MOST_PIXELS
from service.pixels import read_pixels

BATCHES = (1, 2, 4, 8, 16, 32, 64)

Pixels = NDArray[np.uint8]


class BareJob(BaseModel):
    """What to measure."""

    model: str
    folders: dict[int, str]
    """Size -> folder of JPEGs."""
    seconds: float
    """For each figure."""
    cores: int


def service_decode(jpeg: bytes, preprocessing: Preprocessing) -> Pixels:
    """From bytes to pixels as the service does it by default."""
    return read_pixels(jpeg, preprocessing, max_pixels=PILLOWS_MOST_PIXELS, exact=False)


def rate(work: Callable[[], object], pictures: int, seconds: float) -> tuple[float, float]:
    """Pictures per second and CPU milliseconds per picture of calling `work`, which does `pictures` of them."""
    work()
    done, begin, cpu = 0, time.perf_counter(), time.process_time()
    while (span := time.perf_counter() - begin) < seconds:
        work()
        done += pictures
    return done / span, 1000 * (time.process_time() - cpu) / done


def measure(job: BareJob) -> Bare:
    """Every figure, one after the other."""
    file = ModelFile.read(Path(job.model))
    contract, preprocessing = file.contract, file.artifact.preprocessing
    model = Model(job.model, 1)
    bare = Bare(sessions=[], decodes=[], plain_labels={}, service_labels={})
    plain: dict[str, Pixels] = {}
    for size, folder in job.folders.items():
        jpegs = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        plain = {name: contract.decode(jpeg) for name, jpeg in jpegs.items()}
        own = {name: service_decode(jpeg, preprocessing) for name, jpeg in jpegs.items()}
        bare.plain_labels[size] = _labels(model, contract, plain)
        bare.service_labels[size] = _labels(model, contract, own)
        bare.decodes.append(_decode_cost(size, list(jpegs.values()), contract, preprocessing, job.seconds))
    pixels = np.stack(list(plain.values()))
    for threads in sorted({1, job.cores}):
        model = Model(job.model, threads)
        for batch in BATCHES:
            inputs = np.resize(pixels, (batch, *pixels.shape[1:]))
            throughput, cpu_ms = rate(partial(model.infer, inputs), batch, job.seconds)
            bare.sessions.append(SessionRate(threads=threads, batch=batch, throughput=throughput, cpu_ms=cpu_ms))
    return bare


def _labels(model: Model, contract: Contract, pictures: dict[str, Pixels]) -> dict[str, str]:
    """The top-1 label of each, one at a time."""
    return {name: contract.labels[int(model.infer(pixels[None])[0].argmax())] for name, pixels in pictures.items()}


def _decode_cost(
    size: int, jpegs: list[bytes], contract: Contract, preprocessing: Preprocessing, seconds: float
) -> DecodeCost:
    plain = rate(lambda: [contract.decode(jpeg) for jpeg in jpegs], len(jpegs), seconds)[1]
    own = rate(lambda: [service_decode(jpeg, preprocessing) for jpeg in jpegs], len(jpegs), seconds)[1]
    return DecodeCost(size=size, plain_ms=plain, service_ms=own)


if __name__ == "__main__":
    result = measure(BareJob.model_validate_json(Path(sys.argv[1]).read_text("utf-8")))
    Path(sys.argv[2]).write_text(result.model_dump_json(), "utf-8")
