"""The command line: `strip-mlp-cluster`."""

import logging
import signal
import sys
import time
from contextlib import suppress

from cluster.settings import ClusterSettings
from service.cli import settings_from_arguments
from service.errors import StartupError
from service.listening import listening
from service.logs import start_logging
from service.repository import find_models
from service.server import KEEP_ALIVE_SECONDS

try:
    import ray
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    from cluster.joining import join, joins
    from cluster.replica import build
except ImportError as error:
    sys.exit(f"strip-mlp-cluster: Ray is not there ({error}); install the 'ray' extra")

logger = logging.getLogger(__name__)

APPLICATION = "strip-mlp"

LOOK_SECONDS = 5


def main() -> int:
    """Run the service on a Ray cluster until a signal says to stop.

    Returns:
        The exit status: 0 after a clean stop, 1 if the service could not start or was ended by others, 2 for a wrong
        setting.
    """
    settings = settings_from_arguments(ClusterSettings)
    if settings is None:
        return 2
    start_logging(settings)
    doing = "start"
    try:
        if not joins(settings.address):  # Ray would share the port in silence, and tell of the models at length
            with listening(settings):
                find_models(settings.models)
        join(settings.address)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)  # Ray's own for SIGTERM ends the process at once
        deploy(settings)
        logger.info("every node of the cluster listens on port %d", settings.port)
        doing = "go on"
        _watch()
        logger.error("somebody else has ended the application")
    except (StartupError, RuntimeError, ValueError, OSError, RayError, RayServeException) as error:
        logger.critical("the service cannot %s: %s", doing, error)
    except KeyboardInterrupt:
        logger.info("ending")
        if ray.is_initialized():
            with suppress(RayError, RayServeException):  # interrupted before Ray Serve was started, or it has died
                serve.delete(APPLICATION)
        return 0
    finally:
        ray.shutdown()
    return 1


def deploy(settings: ClusterSettings) -> None:
    """Start or change the application on the cluster that Ray is connected to; returns when it answers.

    Raises:
        RuntimeError: it does not start, and Ray's message says why; or Ray Serve listens elsewhere already.
        TimeoutError: Ray's proxies do not start.
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
    client = _get_global_client()
    assert client is not None  # started
    now = client.http_config  # which Ray leaves as it was where Ray Serve runs already
    if (now.host, now.port) != (settings.host, settings.port):
        raise RuntimeError(
            f"Ray Serve listens on {now.host} port {now.port} here already; give --host and --port as these, or end "
            "it with all its applications by `serve shutdown`"
        )
    quiet = {"enable_access_log": False}  # the service has a line a request of its own
    serve.run(build(settings), name=APPLICATION, route_prefix="/", logging_config=quiet)


def _watch() -> None:
    """Until the application is gone or a signal interrupts, telling what becomes of it meanwhile."""
    before = "RUNNING"
    while (application := serve.status().applications.get(APPLICATION)) is not None:
        if application.status != before:
            logger.warning("the application is %s %s", application.status.value, application.message)
        before = application.status
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
