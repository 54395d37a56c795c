"""How near to the floor Python and uvicorn come where nothing is handed over and nothing is safe.

A process for each core, each of which decodes a batch and runs the model in its event loop: no thread, no other
process, no limit. A picture that hangs or crashes the decoder takes all others of the process with it, and nothing is
answered while a batch runs. It tells what the service pays for decoders in processes of their own, for one queue, and
for an event loop that is always there.
"""

import os
import socket
import sys
from asyncio import Future, get_running_loop
from pathlib import Path
from signal import SIGTERM

import numpy as np
import uvicorn

from benchmarks.peers.asgi import live, respond
from service.cpus import usable_cpus
from service.decoding import PILLOWS_MOST_PIXELS
from service.memory import keep_heap_for_pictures
from service.pixels import read_pixels
from service.repository import find_models
from service.session import Session

LIMIT = 16


class Server:
    """One model, and what waits for it."""

    def __init__(self) -> None:
        ((file,),) = find_models(Path(os.environ["BENCH_MODELS"])).values()
        self._session = Session.open(file.path, device="cpu", threads=1)
        self._waiting: list[tuple[bytes, Future]] = []
        self._soon = False

    @property
    def labels(self) -> list[str]:
        return self._session.artifact.labels

    async def start(self) -> None:
        self._loop = get_running_loop()

    async def classify(self, data: bytes) -> np.ndarray:
        scores = self._loop.create_future()
        self._waiting.append((data, scores))
        self._look_soon()
        return await scores

    def _look_soon(self) -> None:
        """Once all that has arrived by now has been read."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._loop.call_soon, self._run)

    def _run(self) -> None:
        self._soon = False
        batch, self._waiting = self._waiting[:LIMIT], self._waiting[LIMIT:]
        preprocessing = self._session.artifact.preprocessing
        pixels = [read_pixels(data, preprocessing, max_pixels=PILLOWS_MOST_PIXELS, exact=False) for data, _ in batch]
        for (_, scores), row in zip(batch, self._session.run(np.stack(pixels)).probabilities, strict=True):
            scores.set_result(row)
        if self._waiting:
            self._look_soon()


def end_children() -> None:
    """Those processes that this one has started."""
    for child in children:
        os.kill(child, SIGTERM)


async def app(scope, receive, send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        await live(receive, send, server.start, end_children)
    else:
        await respond(receive, send, server.classify, server.labels)


if __name__ == "__main__":
    children = []
    for _ in range(usable_cpus() - 1):
        child = os.fork()
        if child == 0:
            children = []
            break
        children.append(child)
    keep_heap_for_pictures()
    server = Server()
    with socket.socket() as listener:
        # Each process has a queue of connections: of one, whoever is quickest would take them all.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", int(sys.argv[1])))
        config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
        uvicorn.Server(config).run([listener])
