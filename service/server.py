"""The HTTP server of one process: listens, drains on SIGTERM, reloads the models on SIGHUP."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from multiprocessing import parent_process
from time import monotonic
from types import FrameType

import uvicorn

from service.app import Service
from service.connection import ConnectionLimits, HttpConfig
from service.errors import StartupError
from service.files import allow_files
from service.listening import Listeners, listening
from service.memory import keep_heap_small, spare_what_stays
from service.settings import Settings

logger = logging.getLogger(__name__)

OTHER_FILES = 256
"""Open files beside connections: models, decoders' pipes, gRPC's sockets."""

KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep their idle connections, so that they close them and not this side."""

SWITCH_SECONDS = 0.0005
"""How long a thread holds Python's lock while others ask for it. With Python's 5 ms, decoding waits for the event loop
to work off whole bursts of requests. With small pictures on two cores it gave, together with one thread more than
there are cores, 1 to 14 % more throughput."""


class Server(uvicorn.Server):
    """uvicorn, with an end that loses no request.

    The first SIGTERM makes `/readyz` answer 503 and asks clients to close their connections; requests are still
    taken. After `drain_seconds` listening ends, running requests are answered, `serve` returns. SIGINT skips the
    waiting. A second signal of either kind ends the process at once.
    """

    def __init__(self, settings: Settings, listeners: Listeners) -> None:
        self.failures: list[StartupError] = []
        self._settings = settings
        self._listeners = listeners
        self._app = Service(settings, self._on_failure, listeners.admin_port)
        self._stop_at: float | None = None
        super().__init__(
            HttpConfig(
                self._app,
                ConnectionLimits(settings.max_connections, settings.header_seconds, settings.max_body_seconds),
                self._app.metrics,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here asks who the client is
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=settings.shutdown_seconds,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(self._listeners.all if sockets is None else sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        logger.info("process %d listens on %s", os.getpid(), self._listeners)
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():  # as signals can be caught nowhere else
            loop.add_signal_handler(signal.SIGHUP, self._app.reloader.ask)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # as workers are started with it blocked
        supervisor = parent_process()
        if supervisor is not None:
            loop.add_reader(supervisor.sentinel, self._on_orphaned, supervisor.sentinel)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.stop_rpc()  # its time to end running requests passes along with HTTP's, and not after it
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stop_at is not None:
            logger.warning("a second signal: ending at once")
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._drain(0 if sig == signal.SIGINT else self._settings.drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        self._app.models.update_gauges()
        return await super().on_tick(counter) or (self._stop_at is not None and monotonic() >= self._stop_at)

    def _drain(self, seconds: float) -> None:
        logger.info("ending in %g seconds", seconds)
        self._stop_at = monotonic() + seconds
        self._app.models.draining = True
        # A connection that the client closes after its answer can lose no request when this side stops listening.
        close = (b"connection", b"close")
        self.config.encoded_headers = [*self.config.encoded_headers, close]
        self.server_state.default_headers = [*self.server_state.default_headers, close]

    def _on_failure(self, error: StartupError) -> None:
        self.failures.append(error)
        self.should_exit = True

    def _on_orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        logger.error("the supervisor has died")
        self._drain(self._settings.drain_seconds)


def serve_alone(settings: Settings) -> int:
    """As `serve`, on sockets of its own."""
    try:
        with listening(settings) as listeners:
            return serve(settings, listeners)
    except StartupError as error:
        logger.critical("the service cannot start: %s", error)
        return 1


def serve(settings: Settings, listeners: Listeners) -> int:
    """Serve until a signal says to stop.

    Args:
        settings: see `Settings`.
        listeners: the sockets to listen on.

    Returns:
        The exit status: 0 after a clean stop, 1 if the service could not start.
    """
    keep_heap_small()
    sys.setswitchinterval(SWITCH_SECONDS)
    allow_files(settings.max_connections + OTHER_FILES)
    try:
        server = Server(settings, listeners)
    except StartupError as error:
        logger.critical("the service cannot start: %s", error)
        return 1
    spare_what_stays()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    try:
        server.run()
    finally:
        # The work is done: a late signal must not make a clean end look like a killed process.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    for failure in server.failures:
        logger.critical("the service cannot start: %s", failure)
    return 1 if server.failures else 0
