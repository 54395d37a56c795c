"""Requests and sessions without a model: a picture is a number, and what is said of it is that number."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from opentelemetry.trace import INVALID_SPAN

from service.admission import Admission, ServiceRate
from service.batching import BatchQueue
from service.metrics import Metrics, ModelMetrics
from service.preprocessing import Pixels
from service.providers import CPU
from service.record import RequestRecord
from service.running import Runner
from service.session import Scores, Session
from service.work import Item, Result, Work
from tests.service import colours
from tests.service.live import PATIENCE

Run = Callable[[Pixels], Scores]


def picture(number: int) -> Pixels:
    return np.array([number >> 8, number & 0xFF, 0], dtype=np.uint8).reshape(1, 1, 3)


def numbers(pixels: Pixels) -> list[int]:
    return [int(high) << 8 | int(low) for high, low, _ in pixels[:, 0, 0]]


def echo(pixels: Pixels) -> Scores:
    """The picture's number as its one logit."""
    logits = np.array(numbers(pixels), dtype=np.float32)[:, None]
    return Scores(logits, logits / np.float32(1000))


class Held:
    """A run that waits for `release` and notes what came."""

    def __init__(self, answer: Run = echo) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.batches: list[list[int]] = []
        self._answer = answer

    def __call__(self, pixels: Pixels) -> Scores:
        self.batches.append(numbers(pixels))
        self.entered.set()
        assert self.release.wait(PATIENCE)
        return self._answer(pixels)


class Noted:
    """A run that notes what came."""

    def __init__(self, answer: Run = echo) -> None:
        self.batches: list[list[int]] = []
        self._answer = answer

    def __call__(self, pixels: Pixels) -> Scores:
        self.batches.append(numbers(pixels))
        return self._answer(pixels)


class _Inference:
    """In place of onnxruntime's session."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, _: Sequence[str], inputs: dict[str, Pixels]) -> tuple[Any, Any]:
        scores = self._run(inputs["pixels"])
        return scores.logits, scores.probabilities


def session(run: Run = echo) -> Session:
    """A session that runs this. Its probe's picture is the number 0."""
    return Session(colours.artifact(), CPU, _Inference(run))


def roomy() -> Admission:
    """Lets everybody in."""
    return Admission("m", 1_000_000, ServiceRate(1e9, 1), margin=0)


def record() -> RequestRecord:
    """Of a request that nobody traces."""
    return RequestRecord("", INVALID_SPAN)


def work_of(order: int, *pictures: int, admission: Admission | None = None) -> Work:
    """An admitted request for pictures of these numbers, all of them decoded. Needs a running event loop."""
    admission = admission or roomy()
    admission.admit(len(pictures), PATIENCE)
    work = Work(order, [b""] * len(pictures), admission, record())
    for item, number in zip(work.items, pictures, strict=True):
        item.pixels = picture(number)
    return work


def places(items: Sequence[Item]) -> list[tuple[int, int]]:
    return [item.place for item in items]


def said(results: Sequence[Result]) -> list[Any]:
    """The number of each picture that was answered, the error's type for the others."""
    return [int(each.logits[0]) if isinstance(each, Scores) else type(each) for each in results]


async def results_of(work: Work) -> list[Any]:
    """As `said`, once they are there."""
    async with asyncio.timeout(PATIENCE):
        return said(await work.results())


def no_reopening() -> Session:
    raise AssertionError("nothing was to be opened anew")


def runner_of(
    queue: BatchQueue,
    run: Run = echo,
    *,
    capacity: int = 1,
    threads: int = 1,
    sizes: Sequence[int] | None = None,
    reopen: Callable[[], Session] = no_reopening,
    metrics: ModelMetrics | None = None,
) -> Runner:
    """A runner of model m. Needs a running event loop."""
    return Runner(
        queue,
        session(run),
        capacity=capacity,
        threads=threads,
        sizes=sizes,
        reopen=reopen,
        name="m",
        metrics=metrics or Metrics().of_model("m", 1, "ab"),
    )
