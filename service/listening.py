"""The sockets that the service listens on."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from service.errors import StartupError
from service.settings import Settings

BACKLOG = 2048
"""Connections that wait to be accepted."""


@dataclass(frozen=True)
class Listeners:
    """Bound and listening."""

    main: socket.socket
    admin: socket.socket | None
    """For metrics and administration, where they have a port of their own."""

    @property
    def all(self) -> list[socket.socket]:
        return [self.main] if self.admin is None else [self.main, self.admin]

    @property
    def admin_port(self) -> int | None:
        """The admin socket's, which the system may have picked."""
        return None if self.admin is None else int(self.admin.getsockname()[1])

    def __str__(self) -> str:
        """Their addresses."""
        return " and ".join(_url(each) for each in self.all)

    def close(self) -> None:
        for each in self.all:
            each.close()


@contextmanager
def listening(settings: Settings) -> Iterator[Listeners]:
    """Listen as the settings say. Raises StartupError if that cannot be."""
    with ExitStack() as stack:
        main = stack.enter_context(_listen(settings.host, settings.port))
        admin = None
        if settings.admin_port is not None:
            admin = stack.enter_context(_listen(settings.admin_host or settings.host, settings.admin_port))
        yield Listeners(main, admin)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartupError(f"cannot listen on {host} port {port}: {error}") from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
