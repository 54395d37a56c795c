"""Traces, as a collector receives them: OTLP over HTTP on a real socket."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time_ns
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.errors import StartupError
from service.tracing import Tracing
from tests.service.live import classify, live_service
from tests.service.pictures import png

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    """Of requests to a collector."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Where OpenTelemetry's environment variables point to."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, name="collector")
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield collector
        collector.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_is_a_span_of_the_clients_trace_with_a_span_for_each_stage(
    colour_models: Path, collector: Collector
) -> None:
    began = time_ns()
    with live_service(colour_models, tracing=True) as client:
        client.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
        assert classify(client, png("red"), b"no picture").status_code == 200
    # What is left is sent when the service ends.

    (request,) = [span for span in collector.spans if span.name == "POST /classify"]
    assert request.kind == Span.SPAN_KIND_SERVER
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert request.status.code == Status.STATUS_CODE_UNSET
    told = attributes(request)
    assert len(told.pop("stripmlp.request_id")) == 32
    assert told == {
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "stripmlp.model": "colours",
        "stripmlp.version": 1,
        "stripmlp.pictures.ok": 1,
        "stripmlp.pictures.invalid": 1,
    }
    stages = [span for span in collector.spans if span.parent_span_id == request.span_id]
    assert [span.name for span in stages] == ["read", "decode", "queue", "infer", "encode"]
    assert began < request.start_time_unix_nano < request.end_time_unix_nano < time_ns()
    for stage in stages:
        assert stage.trace_id.hex() == TRACE
        # The two clocks are read one after the other.
        assert request.start_time_unix_nano - 10**6 < stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano < request.end_time_unix_nano + 10**6


def test_requests_without_a_trace_begin_one_and_name_the_service(colour_models: Path, collector: Collector) -> None:
    with live_service(colour_models, tracing=True) as client:
        assert classify(client, png("red")).status_code == 200
        assert client.get("/invented").status_code == 404

    spans = {span.name: span for span in collector.spans}
    first, second = spans["POST /classify"], spans["GET none"]
    assert not first.parent_span_id
    assert first.trace_id != second.trace_id
    (resource,) = {request.resource_spans[0].resource.SerializeToString() for request in collector.requests}
    assert b"strip-mlp-serving" in resource


def test_what_a_client_wants_unsampled_is_not_sent(colour_models: Path, collector: Collector) -> None:
    with live_service(colour_models, tracing=True) as client:
        client.post("/classify", content=png("red"), headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})

    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


def test_a_request_that_the_service_failed_is_an_error(
    colour_models: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr("service.endpoint.read_pictures", fail)
    with live_service(colour_models, tracing=True) as client:
        assert client.post("/classify", content=png("red")).status_code == 500

    (request,) = [span for span in collector.spans if span.name == "POST /classify"]
    assert request.status.code == Status.STATUS_CODE_ERROR
    assert attributes(request)["stripmlp.pictures.failed"] == 1


def test_traces_are_off_unless_asked_for(colour_models: Path, collector: Collector) -> None:
    with live_service(colour_models) as client:
        assert classify(client, png("red")).status_code == 200

    assert collector.requests == []


def test_without_the_sdk_tracing_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(StartupError, match="install the 'otel' extra"):
        Tracing.to_collector()


def test_a_collector_that_is_missing_harms_no_request(colour_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")

    with live_service(colour_models, tracing=True) as client:
        assert classify(client, png("red")).status_code == 200
