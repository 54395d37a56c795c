"""The service in processes of its own, for what only a process can: take signals, and end."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.live import PATIENCE, await_ready, await_true

COMMAND = [sys.executable, "-m", "service"]


def environment(**settings: str) -> dict[str, str]:
    """This process's, with no settings but these."""
    own = {f"STRIPMLP_{field.upper()}" for field in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in own} | settings


def ended(*arguments: str, command: Sequence[str] = COMMAND, **settings: str) -> subprocess.CompletedProcess[str]:
    """A process that ends by itself."""
    return subprocess.run(
        [*command, *arguments],
        cwd=REPOSITORY,
        env=environment(**settings),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


class Process:
    """A process that serves, and what it and its workers log."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.messages = ""
        self._popen = popen
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="messages")
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def await_line(self, pattern: str) -> re.Match[str]:
        """The next line that has it."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"no line with '{pattern}' in:\n{self.messages}") from None
            found = re.search(pattern, line)
            if found:
                return found

    def wait(self) -> int:
        """Its exit status, negative if a signal ended it."""
        status = self._popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def end(self) -> None:
        """Whatever state it is in."""
        if self._popen.poll() is None:
            for pid in [*children(self.pid), self.pid]:
                os.kill(pid, signal.SIGKILL)
        self.wait()

    def _read(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self.messages += line
            self._lines.put(line)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = status.read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended
            continue
        if int(parent) == pid:
            found.append(int(status.parent.name))
    return found


@contextmanager
def started(*arguments: str, command: Sequence[str] = COMMAND, **settings: str) -> Iterator[Process]:
    """A process that may still be starting."""
    with subprocess.Popen(
        [*command, *arguments], cwd=REPOSITORY, env=environment(**settings), stderr=subprocess.PIPE, text=True
    ) as popen:
        process = Process(popen)
        try:
            yield process
        finally:
            process.end()


@contextmanager
def running(
    *arguments: str, workers: int = 1, command: Sequence[str] = COMMAND, **settings: str
) -> Iterator[tuple[Process, httpx.Client]]:
    """A process that serves on a port of the system's choice, all its workers ready, and a client of it."""
    options = ["--port", "0", "--poll-seconds", "0", "--workers", str(workers), "--device", "cpu"]
    options += ["--log-format", "text"]
    with started(*options, *arguments, command=command, **settings) as process:
        if workers == 1:
            url = process.await_line(r"process \d+ listens on (http://[^\s\"]+)")[1]
        else:
            url = process.await_line(r"supervisor \d+ listens on (http://[^\s\"]+)")[1]
            for _ in range(workers):
                process.await_line("batches of up to")
            await_true(lambda: all(httpx.get(f"{url}/readyz").status_code == 200 for _ in range(10 * workers)))
        with httpx.Client(base_url=url, timeout=60) as client:
            await_ready(client, [])
            yield process, client
