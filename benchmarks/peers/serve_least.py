"""The least that a Python server of this shape can do: no limits, no metrics, no log, no deadlines, no isolation.

uvicorn and an ASGI function, the service's decoder processes, batches of up to 16 in a thread for each core. It tells
how much of the floor the service's own doings cost, and how much HTTP, processes and caches do.
"""

import os
import sys
import threading
from asyncio import Future, get_running_loop
from collections import deque
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from benchmarks.peers.asgi import live, respond
from service.cpus import usable_cpus
from service.decoders import Decoders
from service.memory import keep_heap_small
from service.metrics import Metrics
from service.repository import find_models
from service.server import SWITCH_SECONDS
from service.session import Session
from service.settings import Settings

LIMIT = 16


class Server:
    """One model, and what waits for it."""

    def __init__(self) -> None:
        ((file,),) = find_models(Path(os.environ["BENCH_MODELS"])).values()
        self._session = Session.open(file.path, device="cpu", threads=1)
        self._decoders = Decoders(Settings().decode_limits, Metrics())
        self._cores = usable_cpus()
        self._to_decode: deque[tuple[bytes, Future]] = deque()
        self._to_run: deque[tuple[np.ndarray, Future]] = deque()
        self._batches: SimpleQueue = SimpleQueue()
        self._decoding = self._running = 0

    async def start(self) -> None:
        self._loop = get_running_loop()
        await self._decoders.start(self._cores + 1)
        for _ in range(self._cores):
            threading.Thread(target=self._run, daemon=True).start()

    @property
    def labels(self) -> list[str]:
        return self._session.artifact.labels

    async def classify(self, data: bytes) -> np.ndarray:
        scores = self._loop.create_future()
        self._to_decode.append((data, scores))
        self._look()
        return await scores

    def _look(self) -> None:
        while True:
            free = self._decoding + self._running <= self._cores
            if self._to_run and self._running < self._cores:
                full = len(self._to_run) >= LIMIT
                if full or (free and not self._to_decode):
                    batch = [self._to_run.popleft() for _ in range(min(LIMIT, len(self._to_run)))]
                    self._running += 1
                    self._batches.put(batch)
                    continue
            if not (free and self._to_decode):
                return
            self._decoding += 1
            self._loop.create_task(self._decode(*self._to_decode.popleft()))

    async def _decode(self, data: bytes, answer: Future) -> None:
        pixels = await self._decoders.read_pixels(data, self._session.artifact.preprocessing)
        self._decoding -= 1
        self._to_run.append((pixels, answer))
        self._look()

    def _run(self) -> None:
        while True:
            batch = self._batches.get()
            scores = self._session.run(np.stack([pixels for pixels, _ in batch]))
            self._loop.call_soon_threadsafe(self._ran, batch, scores.probabilities)

    def _ran(self, batch: list, probabilities: np.ndarray) -> None:
        self._running -= 1
        for (_, answer), row in zip(batch, probabilities, strict=True):
            answer.set_result(row)
        self._look()


keep_heap_small()
sys.setswitchinterval(SWITCH_SECONDS)
server = Server()


async def app(scope, receive, send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        await live(receive, send, server.start, lambda: None)
    else:
        await respond(receive, send, server.classify, server.labels)
