"""The command line: `strip-mlp-serve`, also `python -m service`."""

import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from service.logs import start_logging
from service.server import serve_alone
from service.settings import Settings
from service.supervisor import Supervisor


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
    start_logging(settings)
    return serve_alone(settings) if settings.workers == 1 else Supervisor(settings).run()
