"""The service as a Ray Serve deployment: each replica has its own sessions, queue and limits.

Ray's proxy spreads requests over the replicas; batches are made in them alone, so there is one queue on the way.
"""

import sys

from ray import serve
from starlette.types import ASGIApp

from cluster.everywhere import Everywhere
from cluster.settings import ClusterSettings, absolute
from service.app import Service
from service.errors import StartupError
from service.logs import start_logging
from service.memory import keep_heap_small, spare_what_stays
from service.server import SWITCH_SECONDS

ROOM_TO_REFUSE = 64
"""Requests that a replica takes beyond its queue, so that the refusals are its own and say when to come again."""


class Replica:
    """One service; Ray calls its methods.

    Args:
        settings: the same for all replicas.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        start_logging(settings)
        keep_heap_small()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._failures: list[StartupError] = []
        self._service = Service(settings, self._failures.append, None)
        spare_what_stays()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Everywhere(self._service)

    async def check_health(self) -> None:
        """Whether `/readyz` says 200. Ray replaces a replica that fails this three times in a row.

        Raises:
            StartupError: a model cannot be served, so the replica does not start.
            NotReady: a session is broken, or a run hangs.
        """
        if self._failures:
            raise self._failures[0]
        self._service.models.require_ready()

    async def metrics(self) -> tuple[str, str]:
        """The replica's id, and its metrics in Prometheus's text format."""
        self._service.models.update_gauges()
        return serve.get_replica_context().replica_tag, self._service.metrics.exposition("")[0].decode()

    async def reload(self) -> None:
        """Look at the model repository soon, which may take long; nobody waits for it."""
        self._service.reloader.ask()


def build(settings: ClusterSettings) -> serve.Application:
    """The application, for `serve.run` and Ray's `serve run cluster.replica:build models=/models`."""
    deployment = serve.deployment()(serve.ingress()(Replica))
    return deployment.options(
        autoscaling_config={
            "min_replicas": settings.replicas,
            "max_replicas": settings.max_replicas or settings.replicas,
            "target_ongoing_requests": settings.ongoing_requests,
        },
        ray_actor_options={"num_cpus": settings.replica_cpus, "num_gpus": settings.replica_gpus},
        max_ongoing_requests=settings.max_queue + ROOM_TO_REFUSE,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
    ).bind(absolute(settings))
