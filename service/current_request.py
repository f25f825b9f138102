"""The request that is being answered, for whoever writes a line about it."""

from collections.abc import Mapping
from contextvars import ContextVar

import structlog
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

current_request: ContextVar[tuple[str, Mapping[bytes, bytes]] | None] = ContextVar(
    "current_request", default=None
)
"""Its id and headers."""

_W3C = TraceContextTextMapPropagator()


def name_request(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Tell which request a line is about, and which trace: only here, as few write any."""
    if (request := current_request.get()) is not None:
        request_id, headers = request
        line.setdefault("request_id", request_id)
        if (trace_id := _trace_id_of(headers)) is not None:
            line.setdefault("trace_id", trace_id)
    return line


def _trace_id_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The trace that a request belongs to: the caller's, or the one begun for it."""
    span = trace.get_current_span()
    if not span.get_span_context().is_valid:
        if (parent := headers.get(b"traceparent")) is None:
            return None
        span = trace.get_current_span(_W3C.extract({"traceparent": parent.decode("latin-1")}))
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
