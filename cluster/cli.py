"""The command line: `strip-mlp-cluster`."""

import logging
import signal
import sys
import threading
from types import FrameType

import ray
from ray import serve

from cluster.joining import join
from cluster.replica import build
from cluster.settings import ClusterSettings
from service.cli import settings_from_arguments
from service.logs import start_logging
from service.server import KEEP_ALIVE_SECONDS

logger = logging.getLogger(__name__)

APPLICATION = "strip-mlp"

LOOK_SECONDS = 5


def main() -> int:
    """Run the service on a Ray cluster until a signal says to stop.

    Returns:
        The exit status: 0 after a clean stop, 1 if the service could not start, 2 for a wrong setting.
    """
    settings = settings_from_arguments(ClusterSettings)
    if settings is None:
        return 2
    start_logging(settings)
    join(settings.address)
    try:
        try:
            deploy(settings)
        except RuntimeError as error:
            logger.critical("the service cannot start: %s", error)
            return 1
        logger.info("every node of the cluster listens on port %d", settings.port)
        _wait_for_signal()
        logger.info("ending")
        serve.delete(APPLICATION)
        return 0
    finally:
        ray.shutdown()


def deploy(settings: ClusterSettings) -> None:
    """Start or change the application on the cluster that Ray is connected to; returns when it answers.

    Raises:
        RuntimeError: it does not start; Ray's message says why.
    """
    serve.start(
        proxy_location="EveryNode",
        http_options={
            "host": settings.host,
            "port": settings.port,
            "request_timeout_s": settings.max_timeout_ms / 1000,
            "keep_alive_timeout_s": KEEP_ALIVE_SECONDS,
        },
    )
    quiet = {"enable_access_log": False}  # the service has a line a request of its own
    serve.run(build(settings), name=APPLICATION, route_prefix="/", logging_config=quiet)


def _wait_for_signal() -> None:
    """Until SIGTERM or SIGINT, telling what becomes of the application meanwhile."""
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    before = "RUNNING"
    while not stop.wait(LOOK_SECONDS):
        application = serve.status().applications[APPLICATION]
        if application.status != before:
            logger.warning("the application is %s %s", application.status, application.message)
        before = application.status


if __name__ == "__main__":
    sys.exit(main())
