"""Traces as a collector gets them, over HTTP; where none is named, none are made."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from app_client import make_settings, serve
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.testclient import TestClient

from service.app import create_app
from service.current_request import name_request

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


class Collector(ThreadingHTTPServer):
    """Takes what OTLP/HTTP sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receive)
        self.received: list[ExportTraceServiceRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span


class _Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.received.append(ExportTraceServiceRequest.FromString(content))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_a_recommendation_continues_the_callers_trace(
    tiny_master: Path, store_url: str, user: str, collector: Collector
) -> None:
    settings = make_settings(tiny_master, store_url, otlp_endpoint=collector.url)
    with serve(settings) as client:  # closing sends what is waiting
        event = {"event_id": user, "user_id": user, "type": "video_watch", "video_id": "v3"}
        client.post("/events", json={"events": [{**event, "timestamp": 1_000}]}, headers=TRACED)
        answer = client.post("/recommend/videos", json={"user_id": user}, headers=TRACED).json()
    request = collector.named("POST /recommend/videos")
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == CALLER
    assert request.kind == Span.SPAN_KIND_SERVER
    stages = [collector.named(name) for name in ("history", "queue", "encode", "retrieve")]
    for stage in stages:
        assert stage.trace_id == request.trace_id
        assert stage.parent_span_id == request.span_id
        took_ms = (stage.end_time_unix_nano - stage.start_time_unix_nano) / 1e6
        assert took_ms == pytest.approx(answer["timings_ms"][stage.name], abs=1e-3)
    for earlier, later in itertools.pairwise(stages):
        assert earlier.end_time_unix_nano == later.start_time_unix_nano
    append = collector.named("append_events")
    assert append.parent_span_id == collector.named("POST /events").span_id
    assert {"service.name": "lsvcr"}.items() <= {
        attribute.key: attribute.value.string_value
        for attribute in collector.received[0].resource_spans[0].resource.attributes
    }.items()


def test_a_request_without_a_trace_begins_one_that_the_log_names(
    tiny_master: Path, store_url: str, collector: Collector
) -> None:
    app = create_app(make_settings(tiny_master, store_url, otlp_endpoint=collector.url))

    @app.get("/bound")
    async def bound() -> dict[str, Any]:
        return dict(name_request(None, "info", {}))

    with TestClient(app) as client:
        logged = client.get("/bound").json()["trace_id"]
        client.post("/recommend/videos", json={"history": {}})
        client.get("/videos/none/similar")
        client.get("/health/ready")
        client.get("/metrics")
        client.get("/users/somebody/history")
    assert collector.named("GET /bound").trace_id.hex() == logged
    assert not collector.named("POST /recommend/videos").parent_span_id
    similar = collector.named("GET /videos/{video_id}/similar")
    assert similar.trace_id != collector.named("POST /recommend/videos").trace_id
    assert similar.status.code != Status.STATUS_CODE_ERROR  # 404 is the caller's affair
    text = " ".join(str(span) for span in collector.spans)
    assert "somebody" not in text
    assert "health" not in text


def test_a_caller_that_does_not_sample_is_not_recorded(
    tiny_master: Path, store_url: str, collector: Collector
) -> None:
    settings = make_settings(tiny_master, store_url, otlp_endpoint=collector.url)
    with serve(settings) as client:
        unsampled = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
        client.post("/recommend/videos", json={"history": {}}, headers=unsampled)
    assert collector.spans == []


def test_without_an_endpoint_the_exporter_is_not_even_imported() -> None:
    code = "import sys, service.app; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "opentelemetry.trace" in ran.stdout.split()
    assert not [name for name in ran.stdout.split() if name.startswith("opentelemetry.exporter")]
