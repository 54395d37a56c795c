"""Administration: who may do it, and where."""

from collections.abc import Mapping
from hmac import compare_digest

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, Unauthorized
from service.keys import sent_secret
from service.problems import not_found
from service.record import RequestRecord
from service.settings import Settings

REPOSITORY = "/repository/models/"
"""Begins the paths of the Open Inference Protocol's load and unload, below /v2."""

ADMINISTRATION = {"/metrics", "/models/reload"}

EVERYWHERE = {"/healthz", "/readyz", "/models"}
"""What the administration's port has too."""


def require_admin(request: Request, settings: Settings) -> None:
    """Whether the request may administer: it has to send the service's admin token as `Bearer` (RFC 6750).

    Raises:
        Forbidden: it has a client's key.
        Unauthorized: it has neither.
    """
    if settings.admin_token is None:
        raise Unauthorized("administration by request is off; start the service with --admin-token")
    if is_admin(dict(request.scope["headers"]), settings):
        return
    key = RequestRecord.of(request.scope).key
    if key is not None:
        raise Forbidden(f"key '{key.name}' may not administer the service, which takes its admin token")
    raise Unauthorized("the Authorization header has to be 'Bearer' and the service's admin token")


def is_admin(headers: Mapping[bytes, bytes], settings: Settings) -> bool:
    """Whether these headers, their names in small letters, have the admin token, if there is one."""
    sent = sent_secret(headers)
    if settings.admin_token is None or sent is None:
        return False
    return compare_digest(sent, settings.admin_token.get_secret_value().encode())


class SeparateAdmin:
    """Keeps metrics and administration to a port of their own, and all else off it.

    Args:
        app: what answers.
        port: the administration's.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in EVERYWHERE:
            administers = scope["path"] in ADMINISTRATION or scope["path"].startswith(f"/v2{REPOSITORY}")
            if administers is not (scope["server"][1] == self._port):
                await not_found(Request(scope, receive))(scope, receive, send)
                return
        await self._app(scope, receive, send)
