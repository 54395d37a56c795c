"""One connection: HTTP/1.1 with limits that uvicorn leaves to a proxy, so that slow or endless senders stop nobody.

uvicorn parses with llhttp, which bounds neither the size of headers and trailers nor the time that they take.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import BadRequest, HeadersTooLarge, HeadersTooSlow, Overloaded, ServiceError
from service.metrics import Metrics
from service.problems import problem_response

MOST_SILENT_BYTES = 32 << 10
"""What may arrive before a part of a body does: request line and headers, later chunk extensions or trailers."""

MOST_HEADERS = 100
"""Of a request, each of which takes many times its bytes while the request lasts."""

LINGER_SECONDS = 5
"""How long the rest of a body is received, and thrown away, once its request is answered. Closed at once, a client
might miss its answer (RFC 9112, section 9.6)."""

MOST_WAITING = 3
"""Requests that wait behind the one being answered, on one connection (RFC 9112, section 9.3.2)."""


FRAMING = 4
"""Bytes of a header beside name and value."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Of all connections together, and of each."""

    connections: int
    header_seconds: float
    answer_seconds: float
    """In which an answer has to be taken."""


class HttpConfig(uvicorn.Config):
    """uvicorn's settings and ours.

    Args:
        app: the application.
        limits: of its connections.
        metrics: where they are counted.
        options: uvicorn's.
    """

    def __init__(self, app: Any, limits: ConnectionLimits, metrics: Metrics, **options: Any) -> None:
        super().__init__(app, http=Connection, ws="none", **options)
        self.limits = limits
        self.metrics = metrics


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, within limits."""

    def __init__(
        self,
        config: HttpConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._metrics = config.metrics
        self._silent = 0
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))  # in all but name, where it is uvloop's
        self._metrics.connections.inc()
        if len(self.connections) > self._limits.connections:
            message = f"the service has {self._limits.connections} connections, which is its limit"
            self._refuse(Overloaded(message, 1), "connections")
        else:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._metrics.connections.dec()
        self._end_timer()
        self._end_unread()
        # uvicorn tells this to the last request alone.
        for cycle in [each for each, _ in self.pipeline] + ([self._answering] if self._answering else []):
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._silent += len(data)
        super().data_received(data)
        if self._silent > MOST_SILENT_BYTES or len(self.headers or ()) > MOST_HEADERS:
            self._refuse_headers()
        elif self._timer is None and self.timeout_keep_alive_task is None and self._idle:
            self._expect_headers()  # the beginning of another request, or the blank lines that may stand before it

    def on_headers_complete(self) -> None:
        self._end_timer()
        many = len(self.headers) > MOST_HEADERS
        if many or (self._silent > MOST_SILENT_BYTES and self._header_bytes > MOST_SILENT_BYTES):
            self._refuse_headers()
            raise ValueError("headers too large")  # the parser stops at it
        super().on_headers_complete()
        if len(self.pipeline) > MOST_WAITING:
            self._refuse(BadRequest(f"more than {MOST_WAITING} requests wait on this connection"), "pipeline")
            raise ValueError("too many requests at once")

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent = 0
        super().on_message_complete()
        if self.cycle.response_complete:  # the rest of an answered request's body has arrived
            self._end_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()
        elif self.cycle.response_complete and self.cycle.more_body:
            self._unset_keepalive_if_required()
            self._abort_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._end_unread()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # closed, it would wait for its client to read

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(BadRequest(f"this is no HTTP/1.1 request that can be understood: {msg}"), "malformed")

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _is_arriving(self) -> bool:
        """Whether the body is still to come of the request whose turn it is, and nothing of its answer is out."""
        cycle = self.cycle
        return cycle is not None and cycle is self._answering and cycle.more_body and not cycle.response_started

    @property
    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + FRAMING for name, value in self.headers)

    def _expect_headers(self) -> None:
        self._timer = self.loop.call_later(self._limits.header_seconds, self._on_slow_headers)

    def _on_slow_headers(self) -> None:
        self._timer = None
        message = f"the request's headers did not arrive within {self._limits.header_seconds:g} seconds"
        self._refuse(HeadersTooSlow(message), "headers_slow")

    def _refuse_headers(self) -> None:
        what = "the request's headers, chunk extensions or trailers"
        message = f"{what} are more than the {MOST_HEADERS}, or have more than the {MOST_SILENT_BYTES} bytes, allowed"
        self._refuse(HeadersTooLarge(message), "headers_large")

    def _refuse(self, error: ServiceError, reason: str) -> None:
        if self._refused:
            return
        self._refused = True
        self._metrics.connections_refused.labels(reason).inc()
        self._end_timer()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self._idle or self._is_arriving:
            self.transport.write(_as_sent(problem_response(error)))
        self.transport.close()
        self._expect_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _expect_reading(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self._limits.answer_seconds, self.transport.abort)

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _abort_later(self) -> None:
        self._end_timer()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _as_sent(response: Response) -> bytes:
    """An answer as it goes over the wire, after which the connection ends."""
    headers = [*response.raw_headers, (b"connection", b"close")]
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"HTTP/1.1 %d \r\n%s\r\n%s" % (response.status_code, lines, bytes(response.body))
