"""Several processes on one port: starts them, restarts those that die, hands signals on."""

import logging
import os
import signal
import socket
import time
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from tempfile import TemporaryDirectory
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from service.errors import StartupError
from service.listening import Listeners, listening
from service.logs import start_logging
from service.server import serve
from service.settings import Settings
from service.worker_processes import MULTIPROCESS_FOLDER

logger = logging.getLogger(__name__)

SPAWN = get_context("spawn")  # as threads do not survive a fork

START_FAILED = 3
"""A worker's exit status when it cannot start; 1 is Python's own, for an exception."""

RESTART_PAUSE_SECONDS = 1
"""Shortest life of a worker that is restarted without a pause."""


class Supervisor:
    """Runs `settings.workers` processes until a signal says to stop.

    SIGTERM, SIGINT and SIGHUP go on to every worker, which does with them what a single process does; a second SIGTERM
    or SIGINT ends all at once. A worker that dies is replaced; one that cannot start ends all.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[int, BaseProcess] = {}
        self._started: dict[int, float] = {}
        self._signals: list[int] = []
        self._stopping = False

    def run(self) -> int:
        """Returns the exit status: 0 after a clean stop, 1 if a worker could not start or the port is taken."""
        try:
            with listening(self._settings) as listeners:
                return self._supervise(listeners)
        except StartupError as error:
            logger.critical("the service cannot start: %s", error)
            return 1

    def _supervise(self, listeners: Listeners) -> int:
        logger.info("supervisor %d listens on %s", os.getpid(), listeners)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        status = 0
        signalled, wakes = socket.socketpair()
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno())
        with TemporaryDirectory(prefix="strip-mlp-metrics-") as metrics, signalled, wakes:
            os.environ[MULTIPROCESS_FOLDER] = metrics  # for the workers to come
            for _ in range(self._settings.workers):
                self._start(listeners)
            while self._workers:
                ready = connection.wait([signalled, *(worker.sentinel for worker in self._workers.values())])
                if signalled in ready:
                    signalled.recv(4096)
                    self._hand_signals_on()
                for worker in [each for each in self._workers.values() if each.sentinel in ready]:
                    status = max(status, self._on_end(worker, listeners))
                if self._stopping:
                    listeners.close()  # or clients could still connect when all workers have stopped listening
            signal.set_wakeup_fd(-1)
        return status

    def _start(self, listeners: Listeners) -> None:
        worker = SPAWN.Process(target=_work, args=(self._settings, listeners), name="strip-mlp-worker")
        worker.start()
        assert worker.pid is not None  # started
        self._workers[worker.pid] = worker
        self._started[worker.pid] = time.monotonic()

    def _on_end(self, worker: BaseProcess, listeners: Listeners) -> int:
        assert worker.pid is not None  # started
        worker.join()
        mark_process_dead(worker.pid)
        del self._workers[worker.pid]
        lived = time.monotonic() - self._started.pop(worker.pid)
        if self._stopping:
            return 0
        if worker.exitcode == START_FAILED:
            logger.error("worker %d could not start; ending the others", worker.pid)
            self._send(signal.SIGTERM)
            self._stopping = True
            return 1
        logger.error("worker %d died with exit code %s and is replaced", worker.pid, worker.exitcode)
        if lived < RESTART_PAUSE_SECONDS:
            time.sleep(RESTART_PAUSE_SECONDS)
        self._start(listeners)
        return 0

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _hand_signals_on(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            self._stopping = self._stopping or number != signal.SIGHUP
            self._send(number)

    def _send(self, number: int) -> None:
        for pid in self._workers:
            os.kill(pid, number)


def _work(settings: Settings, listeners: Listeners) -> None:
    # In a group of its own: a terminal's Ctrl-C reaches the supervisor alone, which hands it on, once.
    os.setpgrp()
    start_logging(settings)
    raise SystemExit(START_FAILED if serve(settings, listeners) else 0)
