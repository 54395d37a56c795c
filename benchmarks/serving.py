"""A server from its start to its end."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.load import body, content_type
from benchmarks.model import ModelFile
from benchmarks.processes import end_all
from benchmarks.servers import OURS, Server

REPOSITORY = Path(__file__).parents[1]

PATIENCE = 120.0
"""Seconds that a server gets to start."""

LOG_TAIL = 3000
"""Characters of a failed server's log that are shown."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    port: int
    scratch: Path
    """A folder of this run alone."""
    ready_seconds: float

    @property
    def url(self) -> str:
        """Where pictures are posted."""
        return f"http://127.0.0.1:{self.port}{self.server.path}"


@contextmanager
def running(server: Server, environment: Path, model: ModelFile, cores: int, sample: bytes) -> Iterator[Running]:
    """Start a server, wait until it answers `sample` with 200, and stop all of it in the end.

    Raises:
        RuntimeError: it ended, or did not answer in time; its log goes to standard error.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        scratch = Path(folder)
        model.lay_out(scratch)
        port = _free_port()
        log = scratch / "server.log"
        process = _start(server, environment, model, {"port": str(port), "cores": str(cores), "scratch": folder}, log)
        try:
            yield Running(server, port, scratch, _wait_ready(process, server, port, sample))
        except BaseException:
            print(log.read_text("utf-8", errors="replace")[-LOG_TAIL:], file=sys.stderr)
            raise
        finally:
            killed = end_all(process.pid, server.stop)
            if killed:
                print(f"outlived the stop signal and were killed: {killed}", file=sys.stderr)


def _start(
    server: Server, environment: Path, model: ModelFile, fill: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    programs = environment / "bin"
    command = [part.format(**fill) for part in server.command]
    ours = server.environment == OURS
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(environment),
        "PYTHONPATH": str(REPOSITORY if ours else Path(__file__).parent / "peers"),
    }
    if not ours:
        variables |= {
            "HOME": fill["scratch"],
            "BENCH_MODEL": str(model.path),
            "BENCH_CONTRACT": fill["scratch"] + "/contract.json",
            "BENCH_THREADS": server.session_threads,
            "BENCH_WORKERS": fill["cores"],
            "BENCH_PORT": fill["port"],
            "BENCH_SCRATCH": fill["scratch"],
        }
    variables |= {name: value.format(**fill) for name, value in server.env.items()}
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(programs / command[0]), *command[1:]],
            cwd=fill["scratch"],
            env=os.environ | variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def _wait_ready(process: subprocess.Popen[bytes], server: Server, port: int, sample: bytes) -> float:
    begin = time.monotonic()
    request, headers = body(server, sample), {"Content-Type": content_type(server)}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        while (waited := time.monotonic() - begin) < PATIENCE:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode} before it answered")
            try:
                if client.post(server.path, content=request, headers=headers).status_code == httpx.codes.OK:
                    return waited
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise RuntimeError(f"the server did not answer with 200 within {PATIENCE:.0f} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
