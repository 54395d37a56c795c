"""What every request leaves behind: an id, a Server-Timing header, metrics, a line of the log, spans of its trace."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import request_logger
from service.metrics import Metrics
from service.record import KEY, RequestRecord
from service.tracing import Tracing

PROBES = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
"""Endpoints that are asked every few seconds; the log tells of them with `--log-level debug` alone."""


class Telemetry:
    """Begins and ends what is told of a request.

    Args:
        metrics: where requests are counted and timed.
        tracing: where their spans go.
        log_filenames: whether the log names the files that were sent.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing, *, log_filenames: bool) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._log_filenames = log_filenames
        self._logger = request_logger()

    def begin(self, headers: Mapping[bytes, bytes]) -> RequestRecord:
        """A request has come with these headers, their names in small letters."""
        self._metrics.in_flight_requests.inc()
        return RequestRecord(headers.get(b"x-request-id", b"").decode("latin-1"), self._tracing.begin(headers))

    def end(self, record: RequestRecord, method: str, endpoint: str) -> None:
        """It has its answer, or will never have one.

        Args:
            record: the request's.
            method: HTTP's.
            endpoint: the route's path, of which there must not be more than a few.
        """
        ended = perf_counter()
        trace_id = record.trace_id
        self._metrics.in_flight_requests.dec()
        self._metrics.requests.labels(endpoint, str(record.status)).inc()
        self._metrics.request_seconds.labels(endpoint).observe(
            ended - record.started, None if trace_id is None else {"trace_id": trace_id}
        )
        if record.key is not None:
            self._metrics.key_requests.labels(record.key.name, str(record.status)).inc()
            for outcome, pictures in record.outcomes.items():
                self._metrics.key_images.labels(record.key.name, outcome).inc(pictures)
        self._tracing.end(record, method, endpoint, ended)
        log = self._logger.debug if endpoint in PROBES else self._logger.info
        log("request", method=method, endpoint=endpoint, **self._fields(record, ended))

    def _fields(self, record: RequestRecord, ended: float) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "status": record.status,
            "request_id": record.request_id,
            "duration_ms": _milliseconds(ended - record.started),
        }
        if record.trace_id is not None:
            fields["trace_id"] = record.trace_id
        if record.key is not None:
            fields["key"] = record.key.name
        if record.model is not None:
            fields["model"], fields["version"] = record.model.key
        if record.outcomes:
            fields["pictures"] = dict(record.outcomes)
        if record.stages:
            fields["stages_ms"] = {stage: _milliseconds(end - start) for stage, (start, end) in record.stages.items()}
        if self._log_filenames and record.filenames:
            fields["filenames"] = list(record.filenames)
        return fields


class TelemetryOfHttp:
    """Goes around the whole application. Pure ASGI, as bodies must not be buffered.

    Args:
        app: what answers.
        telemetry: told of every request.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = self._telemetry.begin(dict(scope["headers"]))
        scope[KEY] = record

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = int(message["status"])  # which may be an HTTPStatus
                own = (
                    (b"x-request-id", record.request_id.encode()),
                    (b"server-timing", record.server_timing.encode()),
                )
                message["headers"] = [*message["headers"], *own]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            # Paths that are no route share one label, as clients could invent any number of them.
            route = scope.get("route")
            self._telemetry.end(record, scope["method"], route.path if route else "none")
            del scope[KEY]  # an idle connection keeps its last request's scope, and would keep the model


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
