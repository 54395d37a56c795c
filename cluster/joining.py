"""Ray, started or joined."""

import os

import ray
from ray._private import ray_constants


def joins(address: str | None) -> bool:
    """Whether `join` takes part in a cluster that is there, in place of starting one."""
    return address is not None or "RAY_ADDRESS" in os.environ


def join(address: str | None) -> None:
    """Connect to a Ray cluster, or start one on this machine, which no other machine can reach.

    Args:
        address: as for `ray.init`; None: that of `RAY_ADDRESS`, and without one a new cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing calls home
    if joins(address):
        ray.init(address=address)
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 is for machines that people work on
    # Ray listens on 127.0.0.1 alone only where it believes that there can be no other nodes.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init("local", include_dashboard=False)
