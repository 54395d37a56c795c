"""The steps of a run, each a process of its own that gets a job file and leaves a file of results."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from benchmarks.bare import BareJob
from benchmarks.records import Bare, Job, OneClient, Row
from benchmarks.servers import SERVERS
from benchmarks.serving import REPOSITORY


def measure_bare(job: BareJob, work: Path) -> Bare:
    """The bare session and decoding."""
    return Bare.model_validate_json(_run("bare", job, work))


def measure_server(job: Job, work: Path) -> list[Row]:
    """One server in one round; raises `subprocess.CalledProcessError`, after its log was shown, where that fails."""
    prefix = _isolation() if SERVERS[job.server].isolated else []
    return [Row.model_validate_json(line) for line in _run("drive", job, work, prefix).splitlines()]


def measure_one_client(job: Job, work: Path) -> list[OneClient]:
    """The service with a single client."""
    return [OneClient.model_validate_json(line) for line in _run("one_client", job, work).splitlines()]


def _run(module: str, job: BaseModel, work: Path, prefix: list[str] | None = None) -> str:
    request, results = work / "job.json", work / "results"
    request.write_text(job.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", f"benchmarks.{module}", str(request), str(results)]
    subprocess.run([*(prefix or []), *command], check=True, cwd=REPOSITORY)
    return results.read_text("utf-8")


def _isolation() -> list[str]:
    """What puts a command into a network namespace with nothing but loopback."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        raise SystemExit("Ray Serve is measured in a network namespace: install 'unshare' and 'ip', or leave out ray")
    # Anybody may have a namespace in which he counts as root, where the kernel allows that.
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--net", *mapped, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
