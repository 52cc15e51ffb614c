"""Exports spans in batches, in a thread of OpenTelemetry's SDK, away from the loop that tells them.

What an agent tells waits as a record of ours, since a span of the SDK is several times as much work. This module is
imported only where somebody listens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from core.runtime.otlp_encoding import encoded_spans
from core.runtime.tracing import context_of
from core.spans import SYSTEM, Span

__all__ = ["Lines", "Record", "Translated", "knowing_records", "recording"]

_SCOPE = InstrumentationScope(SYSTEM)
_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_KIND_NAMES = {kind.name.lower(): str(kind) for kind in SpanKind}
_FINE, _FAILED = Status(), Status(StatusCode.ERROR)


class Record:
    """A span that is over, as it waits in a processor of the SDK, which asks only whether it is sampled."""

    __slots__ = ("span",)

    context = SpanContext(1, 1, False, TraceFlags(TraceFlags.SAMPLED))

    def __init__(self, span: Span) -> None:
        self.span = span


def recording(processors: Sequence[Any]) -> Callable[[Span], None]:
    """What gives spans to processors of the SDK, as records."""

    def take(span: Span) -> None:
        record = Record(span)
        for processor in processors:
            processor.on_end(record)

    return take


def knowing_records(exporter: Any, resource: Resource) -> Any:
    """An exporter of the SDK, so that it also exports records.

    One for OTLP gets an encoder that knows them, in place of the one that its module has from the SDK's own encoders.
    All others get them as spans of the SDK."""
    module = sys.modules[type(exporter).__module__]
    encode_others = getattr(module, "encode_spans", None)
    if encode_others is None:
        return Translated(exporter, resource)

    def encode(spans: Sequence[Any]) -> Any:
        """What the SDK's encoder gives for them: an ExportTraceServiceRequest."""
        request = encode_others([span for span in spans if not isinstance(span, Record)])
        if records := [told.span for told in spans if isinstance(told, Record)]:
            # One of them has the SDK encode what they all have in common.
            common = encode_others([_readable(records[0], resource)]).resource_spans[0]
            del common.scope_spans[0].spans[:]
            request.resource_spans.append(common)
            request.resource_spans[-1].scope_spans[0].MergeFromString(encoded_spans(records))
        return request

    vars(module)["encode_spans"] = encode
    return exporter


class Translated:
    """Gives another exporter what it knows: records as spans of the SDK, and all others as they are."""

    def __init__(self, exporter: Any, resource: Resource) -> None:
        self._exporter = exporter
        self._resource = resource

    def export(self, spans: Sequence[Any]) -> Any:
        known = [_readable(told.span, self._resource) if isinstance(told, Record) else told for told in spans]
        return self._exporter.export(known)

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        is_done: bool = self._exporter.force_flush(timeout_millis)
        return is_done


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    trace = span.trace
    above = context_of(trace)
    return ReadableSpan(
        name=span.name,
        context=SpanContext(above.trace_id, int(span.span_id, 16), False, above.trace_flags, above.trace_state),
        parent=None if trace.span_id == span.span_id else above,
        resource=resource,
        attributes={**span.attributes, "error.type": span.error} if span.error else span.attributes,
        links=(Link(context_of(trace.below(span.link))),) if span.link else (),
        kind=_KINDS[span.kind],
        status=_FAILED if span.error else _FINE,
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


class Lines:
    """Writes each span to stdout as a line of JSON, with the members of the SDK's own `to_json`."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._resource_json = orjson.Fragment(resource.to_json(indent=None))

    def export(self, spans: Sequence[Any]) -> Any:
        lines = [self._line(told.span) if isinstance(told, Record) else told.to_json(indent=None) for told in spans]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is open."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True  # nothing waits here

    def _line(self, span: Span) -> str:
        trace = span.trace
        state = repr(context_of(trace).trace_state) if trace.tracestate else "[]"
        told = {
            "name": span.name,
            "context": _ids(trace.trace_id, span.span_id, state),
            "kind": _KIND_NAMES[span.kind],
            "parent_id": None if trace.span_id == span.span_id else f"0x{trace.span_id}",
            "start_time": _moment(span.start_ns),
            "end_time": _moment(span.end_ns),
            "status": {"status_code": "ERROR" if span.error else "UNSET"},
            "attributes": {**span.attributes, "error.type": span.error} if span.error else span.attributes,
            "events": [],
            "links": [{"context": _ids(trace.trace_id, span.link, state), "attributes": {}}] if span.link else [],
            "resource": self._resource_json,
        }
        try:
            return orjson.dumps(told).decode()
        except TypeError:  # it has a value that is not strictly JSON, such as half a surrogate pair
            return str(_readable(span, self._resource).to_json(indent=None))


def _moment(ns: int) -> str:
    second_s, below_ns = divmod(ns, 1_000_000_000)
    return f"{_second(second_s)}.{below_ns // 1000:06d}Z"


@lru_cache(maxsize=64)  # most spans of a batch begin and end in the same few
def _second(second_s: int) -> str:
    return datetime.fromtimestamp(second_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _ids(trace_id: str, span_id: str, state: str) -> dict[str, str]:
    return {"trace_id": f"0x{trace_id}", "span_id": f"0x{span_id}", "trace_state": state}
