"""The command line: `strip-mlp-serve`, also `python -m service`."""

import sys
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import CliApp

from service.logs import start_logging
from service.server import serve_alone
from service.settings import Settings
from service.supervisor import Supervisor

Kind = TypeVar("Kind", bound=Settings)


def main() -> int:
    """Serve until a signal says to stop.

    Returns:
        The exit status: 0 after a clean stop, 1 if the service could not start, 2 for a wrong setting.
    """
    settings = settings_from_arguments(Settings)
    if settings is None:
        return 2
    start_logging(settings)
    return serve_alone(settings) if settings.workers == 1 else Supervisor(settings).run()


def settings_from_arguments(kind: type[Kind]) -> Kind | None:
    """From the command line and the environment; None if one is wrong, which standard error tells then."""
    try:
        return CliApp.run(kind)
    except ValidationError as error:
        for each in error.errors():
            name = "".join(f"setting {part}: " for part in each["loc"])
            message = each["msg"].removeprefix("Value error, ")
            print(f"{kind.model_config.get('cli_prog_name')}: {name}{message}", file=sys.stderr)
        return None
