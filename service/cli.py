"""The command line: `strip-mlp-serve`, also `python -m service`."""

import logging
import signal
import sys

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.app import create_app
from service.errors import StartupError
from service.settings import Settings


def main() -> int:
    """Serve until a signal says to stop.

    Returns:
        The exit status: 0 after a clean stop, 1 if the service could not start, 2 for a wrong setting.
    """
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for each in error.errors():
            name = "".join(f"setting {part}: " for part in each["loc"])
            print(f"strip-mlp-serve: {name}{each['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    failures: list[StartupError] = []

    def stop(error: StartupError) -> None:
        failures.append(error)
        server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, stop),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
    )

    def on_signal(*_: object) -> None:
        server.should_exit = True

    # uvicorn handles signals itself while it runs, then raises them again for the handlers that were there before;
    # the default ones would end the process as killed.
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        server.run()
    except SystemExit:  # how uvicorn ends when it cannot listen, after logging why
        return 1
    for failure in failures:
        print(f"strip-mlp-serve: {failure}", file=sys.stderr)
    return 1 if failures else 0
