"""Traces of requests by OpenTelemetry: a span for each request and for each of its stages.

Off, requests still belong to the trace that a client names (W3C Trace Context), and the log and the metrics' exemplars
say which: OpenTelemetry's API has a tracer for that, which does nothing else.
"""

import os
from collections.abc import Callable, Mapping
from time import perf_counter, time_ns

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.errors import StartupError
from service.record import RequestRecord

NAME = "strip-mlp-serving"

PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Begins and ends the spans of requests.

    Args:
        tracer: makes them.
        close: sends what has not been sent yet; may take seconds.
    """

    def __init__(self, tracer: Tracer, close: Callable[[], object]) -> None:
        self._tracer = tracer
        self.close = close

    @classmethod
    def off(cls) -> "Tracing":
        """Makes no spans."""
        return cls(NoOpTracer(), lambda: None)

    @classmethod
    def to_collector(cls) -> "Tracing":
        """Sends spans by OTLP over HTTP. OpenTelemetry's own environment variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
        `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME` and their siblings) say where to, how many, and under which name.

        Raises:
            StartupError: the `otel` extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise StartupError("--tracing needs OpenTelemetry's SDK; install the 'otel' extra") from error
        resource = Resource.create({} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": NAME})
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider.get_tracer(NAME), provider.shutdown)

    def begin(self, headers: Mapping[bytes, bytes]) -> Span:
        """A request's span, child of the one that its headers name, if they do."""
        parent = Context()
        if b"traceparent" in headers:
            sent = {name: headers.get(name.encode(), b"").decode("latin-1") for name in PROPAGATOR.fields}
            parent = PROPAGATOR.extract(sent, parent)
        return self._tracer.start_span("request", parent, SpanKind.SERVER)

    def end(self, record: RequestRecord, method: str, endpoint: str, ended: float) -> None:
        """End the request's span, and give it one for each stage.

        Args:
            record: the request's.
            method: HTTP's.
            endpoint: the route's path.
            ended: when, on the clock of `time.perf_counter`.
        """
        span = record.span
        if not span.is_recording():
            return
        # Source: OpenTelemetry's semantic conventions for HTTP spans.
        span.update_name(f"{method} {endpoint}")
        span.set_attributes(
            {"http.request.method": method, "http.route": endpoint, "http.response.status_code": record.status}
        )
        span.set_attribute("stripmlp.request_id", record.request_id)
        if record.model is not None:
            span.set_attributes(
                {"stripmlp.model": record.model.file.name, "stripmlp.version": record.model.file.version}
            )
        span.set_attributes({f"stripmlp.pictures.{outcome}": count for outcome, count in record.outcomes.items()})
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        # Spans have the time of day, the stages the clock that never jumps.
        offset = time_ns() - round(perf_counter() * 1e9)
        parent = set_span_in_context(span, Context())
        for stage, (start, end) in record.stages.items():
            child = self._tracer.start_span(stage, parent, start_time=offset + round(start * 1e9))
            child.end(offset + round(end * 1e9))
        span.end(offset + round(ended * 1e9))
