"""What several processes tell together."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import ProcessCollector

from service.worker_processes import WorkerProcessCollector


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    """Two processes at rest, the older first."""
    with ExitStack() as stack:
        pids = []
        for _ in range(2):
            program = "print(flush=True); input()"
            command = [sys.executable, "-c", program]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            pids.append(process.pid)
        yield pids


def of_one(pid: int) -> dict[str, float]:
    families = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {sample.name: sample.value for family in families for sample in family.samples}


def of_all(folder: Path) -> dict[str, float]:
    families = WorkerProcessCollector(str(folder)).collect()
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_memory_is_that_of_all_workers_and_the_start_the_first_ones(tmp_path: Path, sleepers: list[int]) -> None:
    for pid in sleepers:
        (tmp_path / f"gauge_livesum_{pid}.db").touch()
    (tmp_path / f"counter_{os.getpid()}.db").touch()  # what those that have ended leave behind

    together, older, younger = of_all(tmp_path), of_one(sleepers[0]), of_one(sleepers[1])

    memory, start = "process_resident_memory_bytes", "process_start_time_seconds"
    assert together[memory] == older[memory] + younger[memory]
    assert together[start] == older[start] <= younger[start]
    assert together.keys() == older.keys()


def test_a_worker_that_has_just_ended_counts_for_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    for pid in os.getpid(), process.pid:
        (tmp_path / f"gauge_livesum_{pid}.db").touch()

    start = "process_start_time_seconds"
    assert of_all(tmp_path)[start] == of_one(os.getpid())[start]


def test_without_workers_there_is_nothing(tmp_path: Path) -> None:
    assert of_all(tmp_path) == {}
