"""What browsers are told not to do with answers."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_SNIFFING = (b"x-content-type-options", b"nosniff")
NO_REFERRER = (b"referrer-policy", b"no-referrer")

POLICY_NAME = b"content-security-policy"

NOTHING = (POLICY_NAME, b"default-src 'none'; frame-ancestors 'none'")
"""For answers that are no pages (Content Security Policy Level 3)."""

DOCS = (
    POLICY_NAME,
    b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
"""For `/docs`, whose script FastAPI writes into the page."""


class SecurityHeaders:
    """Adds them to every answer. Pages bring a policy of their own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], NO_SNIFFING, NO_REFERRER]
                if not any(name == POLICY_NAME for name, _ in headers):
                    headers.append(DOCS if scope["path"] == "/docs" else NOTHING)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_headers)
