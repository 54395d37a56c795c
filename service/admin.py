"""Who may administer the service: whoever knows its admin token."""

from hmac import compare_digest

from fastapi import Request

from service.errors import Unauthorized
from service.settings import Settings


def require_admin(request: Request, settings: Settings) -> None:
    """Raise Unauthorized unless the request has `Authorization: Bearer` with the service's admin token (RFC 6750)."""
    token = settings.admin_token
    if token is None:
        raise Unauthorized("administration by request is off; start the service with --admin-token")
    sent = request.headers.get("authorization", "")
    if not compare_digest(sent.encode(), f"Bearer {token.get_secret_value()}".encode()):
        raise Unauthorized("the Authorization header has to be 'Bearer' and the service's admin token")
