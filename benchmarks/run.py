"""A whole run: pictures, then in every round the bare session and each server, then the report."""

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime
import PIL
from pydantic import BaseModel

from benchmarks import steps, tables
from benchmarks.bare import BareJob
from benchmarks.environments import version_of
from benchmarks.model import ModelFile
from benchmarks.pictures import write_pictures
from benchmarks.records import Bare, Job, OneClient, PictureSet, Row
from benchmarks.servers import OURS, SERVERS
from benchmarks.serving import REPOSITORY
from benchmarks.summary import Floor, Targets, floors, median_bare, medians, targets

BARE_SECONDS = 0.5
"""For each figure of the bare session and of decoding."""


class Plan(BaseModel):
    """What is measured, as the options say."""

    servers: list[str]
    sizes: list[int]
    clients: list[int]
    seconds: float
    warm_seconds: float
    rounds: int
    one_client_seconds: float
    cores: int


class Report(BaseModel):
    """The JSON file."""

    started: str
    machine: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, Any]
    pictures: dict[int, dict[str, Any]]
    plan: Plan
    bare: Bare
    floors: dict[int, Floor]
    targets: Targets
    one_client: list[OneClient]
    medians: list[Row]
    rounds: list[Row]
    failed: list[str]


class Run:
    """Collects the figures of a plan."""

    def __init__(self, plan: Plan, model: Path, environments: dict[str, Path], work: Path) -> None:
        self.rows: list[Row] = []
        self.failed: list[str] = []
        """Servers that could not be measured, with the round."""
        self._plan = plan
        self._model = model
        self._environments = environments
        self._work = work
        self._bare: list[Bare] = []
        self._one_client: list[OneClient] = []
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def draw(self, photos: Path | None) -> None:
        """Make the pictures of every size."""
        for size in self._plan.sizes:
            write_pictures(self._folder(size), size, photos)

    def measure_round(self, number: int) -> None:
        """The bare session, then every server."""
        print(f"round {number} of {self._plan.rounds}: bare session", flush=True)
        job = BareJob(
            model=str(self._model),
            folders={size: str(self._folder(size)) for size in self._plan.sizes},
            seconds=BARE_SECONDS,
            cores=self._plan.cores,
        )
        self._bare.append(steps.measure_bare(job, self._work))
        for server in self._plan.servers if number % 2 else reversed(self._plan.servers):
            print(f"round {number} of {self._plan.rounds}: {server}", flush=True)
            try:
                self.rows += steps.measure_server(self._job(server, number, self._plan.seconds), self._work)
            except subprocess.CalledProcessError as error:
                print(f"{server} could not be measured ({error.returncode})", flush=True)
                self.failed.append(f"{server} in round {number}")

    def measure_one_client(self) -> None:
        """The service's overhead; after at least one round."""
        print("one client", flush=True)
        try:
            self._one_client = steps.measure_one_client(self._job(OURS, 0, self._plan.one_client_seconds), self._work)
        except subprocess.CalledProcessError as error:
            print(f"one client could not be measured ({error.returncode})", flush=True)
            self.failed.append("one client")

    def report(self) -> Report:
        """The medians and everything that they come from."""
        bare, rows = median_bare(self._bare), medians(self.rows)
        floor = floors(bare, self._plan.cores)
        return Report(
            started=self._started,
            machine={"cpu": _cpu_name(), "cores": self._plan.cores, "kernel": platform.release()},
            versions=self._versions(),
            model={
                "name": ModelFile.read(self._model).artifact.name,
                "sha256": hashlib.sha256(self._model.read_bytes()).hexdigest(),
            },
            pictures={size: self._describe(size, bare) for size in self._plan.sizes},
            plan=self._plan,
            bare=bare,
            floors=floor,
            targets=targets(rows, floor, self._one_client),
            one_client=self._one_client,
            medians=rows,
            rounds=self.rows,
            failed=self.failed,
        )

    def _folder(self, size: int) -> Path:
        return self._work / f"pictures-{size}"

    def _job(self, server: str, number: int, seconds: float) -> Job:
        labels = self._bare[0].service_labels if SERVERS[server].decodes_as_service else self._bare[0].plain_labels
        floor = floors(self._bare[0], self._plan.cores)
        sets = [
            PictureSet(size=size, folder=str(self._folder(size)), labels=labels[size], floor=floor[size].plain)
            for size in self._plan.sizes
        ]
        return Job(
            server=server,
            environment=str(self._environments[server]),
            model=str(self._model),
            sets=sets,
            clients=self._plan.clients,
            seconds=seconds,
            warm_seconds=self._plan.warm_seconds,
            cores=self._plan.cores,
            round=number,
        )

    def _versions(self) -> dict[str, str]:
        versions = {server: version_of(server, folder) for server, folder in self._environments.items()}
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        return versions | {
            "commit": commit.stdout.strip() or "unknown",
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "pillow": PIL.__version__,
        }

    def _describe(self, size: int, bare: Bare) -> dict[str, Any]:
        files = sorted(self._folder(size).iterdir())
        plain, own = bare.plain_labels[size], bare.service_labels[size]
        return {
            "count": len(files),
            "mean_bytes": sum(file.stat().st_size for file in files) / len(files),
            "top1_differs_between_decodes": sum(plain[name] != own[name] for name in plain),
            "labels": len(set(plain.values())),
        }


def print_report(report: Report) -> None:
    """Every table."""
    tables.print_bare(report.bare, report.floors)
    tables.print_servers(report.medians, report.bare, report.floors)
    if report.one_client:
        tables.print_one_client(report.one_client)
    tables.print_targets(report.targets)


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
