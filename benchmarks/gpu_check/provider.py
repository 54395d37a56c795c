"""Whether every node that matters runs on the provider that was asked for, by onnxruntime's own profile."""

import json
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.gpu_check.records import Nodes, ProviderRow
from benchmarks.gpu_check.subjects import Subject
from service.providers import CPU, expected_provider
from service.session import providers_of

RUNS = 3

BATCH = 8

SMALL_BYTES = 1024
"""What writes less handles shapes, which onnxruntime puts on the CPU on purpose."""


def check_provider(subject: Subject, device: str) -> ProviderRow:
    """Run a model with a profile. Raises what onnxruntime raises."""
    expected = expected_provider(device)
    nodes = _nodes(_profile(subject, device, expected))
    strays = sorted({
        each.operator for each in nodes if each.provider == CPU != expected and each.largest_bytes > SMALL_BYTES
    })  # fmt: skip
    return ProviderRow(model=subject.model, precision=subject.precision, expected=expected, nodes=nodes, strays=strays)


def _profile(subject: Subject, device: str, expected: str) -> list[dict[str, Any]]:
    """The events of the runs after the first."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        # A profile of single kernels, from runs that are not bound, which CUDA graphs would want.
        gpu = replace(subject.gpu, cuda_graphs=False)
        providers = providers_of(subject.path, device, gpu, expected)
        session = onnxruntime.InferenceSession(str(subject.path), options, providers=providers)
        size = session.get_inputs()[0].shape[1]
        pixels = np.zeros((BATCH, size, size, 3), np.uint8)
        for _ in range(1 + RUNS):
            session.run(None, {"pixels": pixels})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    return [event for event in events if event.get("cat") == "Node" and event["ts"] >= starts[1]]


def _nodes(events: list[dict[str, Any]]) -> list[Nodes]:
    """Summed by provider and operator, the slowest first."""
    found: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for event in events:
        arguments = event["args"]
        if event["name"].endswith("_kernel_time"):
            key = arguments.get("provider", ""), arguments["op_name"]
            found[key].append((event["dur"], int(arguments.get("output_size", 0))))
    rows = [
        Nodes(
            provider=provider,
            operator=operator,
            count=len(each) // RUNS,
            milliseconds=sum(microseconds for microseconds, _ in each) / RUNS / 1000,
            largest_bytes=max(size for _, size in each),
        )
        for (provider, operator), each in found.items()
    ]
    return sorted(rows, key=lambda row: -row.milliseconds)
