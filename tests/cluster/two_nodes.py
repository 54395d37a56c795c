"""Two nodes of a Ray cluster on one machine, with the service on them: a program that does what its input says.

In a process of its own, as Ray changes the one that it is used in. The first node has room for one replica, the other
for two.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.conftest import REPOSITORY

REPLICA_CPUS = 2

SMALL: Any = {"object_store_memory": 100 << 20}


class TwoNodes:
    """The program, as a test sees it. Every method returns when it is done."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def scale(self, replicas: int) -> None:
        """Have so many replicas."""
        assert self.deploy(replicas=replicas) is None

    def deploy(self, **changes: Any) -> str | None:
        """Have other settings than those at the start. Returns why that cannot be."""
        refusal: str | None = self._do("deploy", json.dumps(changes))
        return refusal

    def kill_node(self) -> None:
        """End every process of the second node, as when its power fails."""
        self._do("kill")

    def add_node(self) -> None:
        """Have a second node again."""
        self._do("add")

    def nodes(self) -> list[str]:
        """The node of each replica that runs."""
        nodes: list[str] = self._do("nodes")
        return nodes

    @contextmanager
    def hung(self) -> Iterator[str]:
        """One replica hangs meanwhile; gives its name."""
        name, process = self._do("any")
        os.kill(process, signal.SIGSTOP)
        try:
            yield name
        finally:
            os.kill(process, signal.SIGCONT)

    def _do(self, *words: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        for line in self._process.stdout:  # between the lines of Ray's own
            if line.startswith("{"):
                return json.loads(line)["answer"]
        raise AssertionError(f"the cluster ended at {words}")


@contextmanager
def two_nodes(**settings: Any) -> Iterator[TwoNodes]:
    """A cluster with settings as `ClusterSettings` has them."""
    given = {"replica_cpus": REPLICA_CPUS, "device": "cpu", **settings}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.cluster.two_nodes", json.dumps(given, default=str)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            cluster = TwoNodes(process)
            assert cluster.deploy() is None
            yield cluster
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


def main() -> None:
    """Start, and obey."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster
    from ray.serve.context import _get_global_client

    from cluster.cli import APPLICATION, deploy
    from cluster.settings import ClusterSettings

    settings = ClusterSettings(**json.loads(sys.argv[1]))
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": REPLICA_CPUS, **SMALL})
    other = machines.add_node(num_cpus=2 * REPLICA_CPUS, **SMALL)
    ray.init(address=machines.address, log_to_driver=False)
    for line in sys.stdin:
        answer: object = None
        match line.split(maxsplit=1):
            case ["deploy", changes]:
                try:
                    deploy(settings.model_copy(update=json.loads(changes)))
                except RuntimeError as error:
                    answer = str(error)
            case ["kill"]:
                machines.remove_node(other, allow_graceful=False)
            case ["add"]:
                other = machines.add_node(num_cpus=2 * REPLICA_CPUS, **SMALL)
            case [("nodes" | "any") as asked]:
                client = _get_global_client()
                assert client is not None  # deployed
                details = client.get_serve_details()["applications"][APPLICATION]["deployments"]["Replica"]
                found = [each for each in details["replicas"] if each["state"] == "RUNNING"]
                answer = (
                    [each["node_id"] for each in found]
                    if asked == "nodes"
                    else (found[0]["replica_id"], found[0]["pid"])
                )
        print(json.dumps({"answer": answer}), flush=True)
    ray.shutdown()
    machines.shutdown()


if __name__ == "__main__":
    main()
