"""The parts one after the other, each for every model. The report is written on the way: a time limit may end all."""

import importlib.util
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu_check.memory import watch_memory
from benchmarks.gpu_check.nvml import gpu_name
from benchmarks.gpu_check.parity import check_parity
from benchmarks.gpu_check.provider import check_provider
from benchmarks.gpu_check.records import Report
from benchmarks.gpu_check.speed import measure_speed
from benchmarks.gpu_check.subjects import Subject, exported, in_precisions, name_of

PARTS = ("provider", "parity", "speed", "memory", "service")

SERVICE_NEEDS = (
    "fastapi", "httptools", "httpx", "multipart", "opentelemetry", "orjson", "prometheus_client", "psutil",
    "pydantic_settings", "structlog", "uvicorn", "uvloop",
)  # fmt: skip

PARITY_BATCHES = (1, 4, 32)

PACKAGES = ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "torch", "tensorrt-cu13", "nvidia-cudnn-cu13")


@dataclass(frozen=True)
class Plan:
    """What to run, and how much of it."""

    device: str
    parts: Sequence[str]
    cuda_graphs: bool
    batches: Sequence[int]
    rounds: int
    requests: int
    largest: int
    sizes: Sequence[int]
    clients: Sequence[int]
    seconds: float


class Check:
    """Runs a plan on models and keeps the report.

    Args:
        plan: what to run.
        output: where the report goes as JSON.
    """

    def __init__(self, plan: Plan, output: Path) -> None:
        self.report = Report(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            device=plan.device,
            cuda_graphs=plan.cuda_graphs,
            gpu=gpu_name(plan.device),
            versions={"python": platform.python_version(), **_versions()},
        )
        self._plan = plan
        self._output = output
        self._subjects: list[Subject] = []

    def collect(self, files: Sequence[Path], variants: Sequence[str], precisions: Sequence[str], folder: Path) -> None:
        """Make every model in every precision, below `folder`."""
        singles = {name_of(file): file for file in files}
        if variants and (reason := _missing(["torch"])):
            self.report.not_run.append(f"{', '.join(variants)}: {reason}")
            variants = []
        for variant in variants:
            print(f"exporting {variant}", flush=True)
            singles[variant] = exported(variant, folder)
        if "tf32" in precisions and self._plan.device == "cpu":
            self.report.not_run.append("tf32: the CPU has none")
            precisions = [each for each in precisions if each != "tf32"]
        if "fp16" in precisions and (reason := _missing(["packaging"])):
            self.report.not_run.append(f"fp16: {reason}")
            precisions = [each for each in precisions if each != "fp16"]
        self._subjects = in_precisions(singles, precisions, folder, cuda_graphs=self._plan.cuda_graphs)

    def run(self) -> None:
        """Every part for every model. What raises is noted, and the next one follows."""
        for part in self._plan.parts:
            if part == "service" and (reason := _missing(SERVICE_NEEDS, tool="wrk")):
                self.report.not_run.append(f"{part}: {reason}")
                continue
            for subject in self._subjects:
                if part == "service" and subject.precision == "tf32":
                    continue  # it does not start where its answers are too far off; the other parts tell
                print(f"{part}: {subject.model} {subject.precision}", flush=True)
                try:
                    self._steps(subject)[part]()
                except Exception as error:  # onnxruntime's exceptions have no common base class
                    self.report.failed.append(f"{part}, {subject.model} {subject.precision}: {error}")
                self._output.write_text(self.report.model_dump_json(indent=1), "utf-8")

    def _steps(self, subject: Subject) -> dict[str, Callable[[], None]]:
        plan, report = self._plan, self.report
        return {
            "provider": lambda: report.providers.append(check_provider(subject, plan.device)),
            "parity": lambda: report.parity.extend(check_parity(subject, plan.device, PARITY_BATCHES)),
            "speed": lambda: report.speed.extend(measure_speed(subject, plan.device, plan.batches, plan.rounds)),
            "memory": lambda: report.memory.append(watch_memory(subject, plan.device, plan.requests, plan.largest)),
            "service": partial(self._load_service, subject),
        }

    def _load_service(self, subject: Subject) -> None:
        # Only this part takes the service's packages.
        from benchmarks.gpu_check.serving import load_service

        plan = self._plan
        self.report.service += load_service(subject, plan.device, plan.sizes, plan.clients, plan.seconds)


def _missing(modules: Sequence[str], tool: str | None = None) -> str | None:
    """Which of these packages and this program are missing, if any."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if tool is not None and shutil.which(tool) is None:
        absent.append(tool)
    return f"{', '.join(absent)} missing" if absent else None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
