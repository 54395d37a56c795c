"""How many processors this process may use, which in a container is fewer than the machine has."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """The least of the affinity mask and the CPU quota of the control group, at least 1.

    Reads `cpu.max` (cgroup v2) or `cpu/cpu.cfs_quota_us` (v1), as a container sees its own below `/sys/fs/cgroup`
    (Linux kernel documentation, admin-guide, cgroup-v2 and cgroup-v1).
    """
    return max(1, int(min(len(os.sched_getaffinity(0)), _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
    except OSError:  # no control group to be read here
        return math.inf
    return math.inf if quota in ("max", "-1") else math.ceil(int(quota) / int(period))
