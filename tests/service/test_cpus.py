"""The processors that a container leaves to the service."""

import os
from pathlib import Path

import pytest

from service.cpus import usable_cpus


@pytest.fixture(autouse=True)
def _eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("6400000 100000", 8), ("max 100000", 8)],
)
def test_the_quota_of_cgroup_v2(tmp_path: Path, limit: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")

    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(300_000, 3), (-1, 8)])
def test_the_quota_of_cgroup_v1(tmp_path: Path, quota: int, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")

    assert usable_cpus(tmp_path) == cpus


def test_without_a_control_group_the_affinity_mask_alone_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == 8


def test_this_machine_has_some() -> None:
    assert 1 <= usable_cpus() <= 8
