"""Who may ask for what, where API keys are in use."""

from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.admin import is_admin
from service.errors import Unauthorized
from service.keys import KEY_HEADER, Keys
from service.problems import error_response
from service.record import RequestRecord
from service.settings import Settings

OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
"""For everybody: health, and what tells nothing of this service but how to ask it."""

OPEN_FOLDERS = ("/static/", "/static-offline-docs/")

NEEDED = "this service needs an API key: send it as 'X-API-Key', or as 'Bearer' in 'Authorization'"


def describe_access(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document what needs a key, and what is answered without."""
    document["components"]["securitySchemes"] = {
        "APIKey": {"type": "apiKey", "in": "header", "name": KEY_HEADER.decode()},
        "Bearer": {"type": "http", "scheme": "bearer", "description": "an API key, or the admin token"},
    }
    for path, operations in document["paths"].items():
        if path not in OPEN:
            for operation in operations.values():
                operation["security"] = [{"APIKey": []}, {"Bearer": []}]
                operation["responses"].setdefault("401", {"description": "No API key, or none that is known"})
                operation["responses"].setdefault("403", {"description": "The key is not for this"})


class Access:
    """Lets requests through that send a key that is known, or the admin token.

    Args:
        app: what answers.
        settings: the admin token.
        keys: the clients'.
        admin_port: where the network decides who may ask; administration itself needs its token there too.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, admin_port: int | None) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._admin_port = admin_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_open(scope):
            headers = dict(scope["headers"])
            record = RequestRecord.of(scope)
            record.key = self._keys.find(headers)
            if record.key is None and not is_admin(headers, self._settings):
                await error_response(Request(scope, receive), Unauthorized(NEEDED))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        on_admin_port = self._admin_port is not None and scope["server"][1] == self._admin_port
        return on_admin_port or path in OPEN or path.startswith(OPEN_FOLDERS)
