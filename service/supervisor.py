"""Several processes on one port: starts them, restarts those that die, hands signals on."""

import logging
import os
import signal
import socket
import time
from dataclasses import dataclass
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
"""Shortest life of a worker that is replaced without a pause, and the pause for others."""

LONGEST_PAUSE_SECONDS = 60
"""Between two attempts to replace a worker, which come further and further apart while they fail."""


@dataclass(frozen=True)
class Worker:
    """A process that serves, or is about to.

    Attributes:
        process: the process.
        started: when, on the clock of `time.monotonic`.
        attempt: which one at taking a dead worker's place, from 1; 0: it is one of the first.
    """

    process: BaseProcess
    started: float
    attempt: int


class Supervisor:
    """Runs `settings.workers` processes until a signal says to stop.

    SIGTERM, SIGINT and SIGHUP go on to every worker, which does with them what a single process does; a second SIGTERM
    or SIGINT ends all at once. A worker that dies is replaced, which is tried until it works: what the repository holds
    by then must not end those that serve. If one of the first cannot start, all end.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[int, Worker] = {}
        self._replacements: list[tuple[float, int]] = []
        """To come: when, and which attempt it will be."""
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
                self._start(listeners, attempt=0)
            while self._workers or self._replacements:
                sentinels = [worker.process.sentinel for worker in self._workers.values()]
                ready = connection.wait([signalled, *sentinels], self._seconds_to_replacement())
                if signalled in ready:
                    signalled.recv(4096)
                    self._hand_signals_on()
                for worker in [each for each in self._workers.values() if each.process.sentinel in ready]:
                    status = max(status, self._on_end(worker))
                if self._stopping:
                    self._replacements.clear()
                    listeners.close()  # or clients could still connect when all workers have stopped listening
                self._replace(listeners)
            signal.set_wakeup_fd(-1)
        return status

    def _start(self, listeners: Listeners, attempt: int) -> None:
        process = SPAWN.Process(target=_work, args=(self._settings, listeners), name="strip-mlp-worker")
        # All of its threads inherit that SIGHUP is blocked: it takes one when it can, and is not ended by it before.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        assert process.pid is not None  # started
        self._workers[process.pid] = Worker(process, time.monotonic(), attempt)

    def _seconds_to_replacement(self) -> float | None:
        if not self._replacements:
            return None
        return max(0.0, min(self._replacements)[0] - time.monotonic())

    def _replace(self, listeners: Listeners) -> None:
        now = time.monotonic()
        due = [each for each in self._replacements if each[0] <= now]
        self._replacements = [each for each in self._replacements if each[0] > now]
        for _, attempt in due:
            self._start(listeners, attempt)

    def _on_end(self, worker: Worker) -> int:
        process, now = worker.process, time.monotonic()
        assert process.pid is not None  # started
        process.join()
        mark_process_dead(process.pid)
        del self._workers[process.pid]
        if self._stopping:
            return 0
        if process.exitcode != START_FAILED:
            pause = RESTART_PAUSE_SECONDS if now - worker.started < RESTART_PAUSE_SECONDS else 0
            logger.error("worker %d died with exit code %s and is replaced", process.pid, process.exitcode)
            self._replacements.append((now + pause, 1))
            return 0
        if worker.attempt > 0:
            pause = min(LONGEST_PAUSE_SECONDS, RESTART_PAUSE_SECONDS * 2 ** (worker.attempt - 1))
            logger.error("worker %d could not start in a dead one's place; the next try is in %d s", process.pid, pause)
            self._replacements.append((now + pause, worker.attempt + 1))
            return 0
        logger.error("worker %d could not start; ending the others", process.pid)
        self._send(signal.SIGTERM)
        self._stopping = True
        return 1

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
