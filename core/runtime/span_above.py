"""A span of another process, below which spans of this one belong. This module is imported only where OpenTelemetry
is."""

from __future__ import annotations

from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext

from core.runtime.tracing import context_of
from core.trace_context import TraceContext

__all__ = ["SpanAbove"]


class SpanAbove(NonRecordingSpan):  # type: ignore[misc]  # its package has no types where it is not installed
    """The span that a traceparent names. What that says is read when a span is opened below it, which most handlers
    never do."""

    _context: SpanContext

    def __init__(self, traceparent: str) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self._traceparent = traceparent

    def get_span_context(self) -> SpanContext:
        if self._context is INVALID_SPAN_CONTEXT and (above := TraceContext.parsed(self._traceparent)) is not None:
            self._context = context_of(above)
        return self._context
