"""Settings of a cluster: the service's, but for those that make no sense there."""

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.replica import build
from cluster.settings import ClusterSettings


def test_a_replica_has_the_cores_that_ray_counts_for_it() -> None:
    settings = ClusterSettings(replica_cpus=3)

    assert settings.cores == 3
    assert settings.has_peers
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"workers": 2}, "workers goes not with a cluster, which has --replicas"),
        ({"grpc_port": 9000}, "grpc_port goes not with a cluster"),
        ({"admin_port": 9000}, "admin_port goes not with a cluster"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas is 2, but replicas 3"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ClusterSettings(**wrong)


def test_replicas_get_what_they_were_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = []
    monkeypatch.setattr("ray.serve.Deployment.bind", lambda deployment, *args: deployed.append((deployment, *args)))

    build(ClusterSettings(replicas=2, replica_cpus=4, replica_gpus=0.5, max_queue=100, max_images=10))
    build(ClusterSettings(replicas=1, max_replicas=5, ongoing_requests=7, shutdown_seconds=11))

    (fixed, settings), (scaled, _) = deployed
    assert settings.models.is_absolute()
    scale = fixed._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas) == (2, 2)
    assert fixed.ray_actor_options == {"num_cpus": 4, "num_gpus": 0.5}
    assert fixed.max_ongoing_requests > 100
    scale = scaled._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas, scale.target_ongoing_requests) == (1, 5, 7)
    assert scaled._deployment_config.graceful_shutdown_timeout_s == 11
