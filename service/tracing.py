"""OpenTelemetry traces, where a collector is named: request, store, queue, encode, retrieve.

FastAPI makes the span of a request and continues the caller's trace (W3C traceparent). The stages
of a recommendation are laid end to end below it, from the durations that the answer tells too: the
engine, which may be another process, needs no tracing of its own.
"""

import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from lsvcr import __version__
from service.settings import SettingsError

STAGES = ("history", "queue", "encode", "retrieve")
_UNTRACED = ("/health/", "/metrics", "/users/")
"""Probes tell nothing, and a path with a user's id in it is nobody's business."""


class Tracing:
    """One app's spans; without an endpoint they are made by nobody and cost next to nothing.

    Args:
        endpoint: URL of an OTLP collector (HTTP, protobuf), without `/v1/traces`. The standard
            variables `OTEL_*` tell the rest: headers, sampling, names.

    Raises:
        SettingsError: If the extra `tracing` isn't installed.
    """

    def __init__(self, endpoint: str | None) -> None:
        self._provider = None if endpoint is None else _open_provider(endpoint)
        provider = self._provider or trace.NoOpTracerProvider()
        self.tracer = provider.get_tracer("lsvcr", __version__)

    def telemetry(self) -> TelemetryConfig:
        """What FastAPI is to do: spans of requests, nothing else."""
        return {
            "tracing": self._provider is not None,
            "tracer_provider": self._provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_untraced,
        }

    def record_stages(self, timings_ms: Mapping[str, float]) -> None:
        """Add the stages of a recommendation that is ready now to the request's span.

        Args:
            timings_ms: By stage; those of `STAGES` came one after the other.
        """
        if self._provider is None or not trace.get_current_span().is_recording():
            return
        took_ns = {stage: round(timings_ms.get(stage, 0.0) * 1e6) for stage in STAGES}
        start_ns = time.time_ns() - sum(took_ns.values())
        for stage, duration_ns in took_ns.items():
            span = self.tracer.start_span(stage, start_time=start_ns)
            start_ns += duration_ns
            span.end(end_time=start_ns)

    def close(self) -> None:
        """Send what is waiting; takes seconds where the collector is away."""
        if self._provider is not None:
            self._provider.shutdown()


def _open_provider(endpoint: str) -> Any:  # an optional package has no type here
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            "--otlp-endpoint needs the extra `tracing`: pip install 'lsvcr[tracing]'"
        ) from error
    ours = Resource({"service.name": "lsvcr", "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _is_untraced(scope: MutableMapping[str, Any]) -> bool:
    return str(scope.get("path", "")).startswith(_UNTRACED)
