"""The wire format of OTLP for spans (opentelemetry-proto 1.x, trace.proto and common.proto).

The SDK's own encoder makes an object for each attribute, which is ten times the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct

from core.spans import Attribute, Span
from core.trace_context import TraceContext

__all__ = ["encoded_spans"]

_KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_MOMENTS = Struct("<BQBQ")  # fields 7 and 8, start and end, each a fixed64 behind its tag
_DOUBLE = Struct("<d")
#: Field 16, fixed32: whether the span above is of another process is known, and so it is; or there is none.
_BELOW_REMOTE, _FIRST = b"\x85\x01\x00\x03\x00\x00", b"\x85\x01\x00\x01\x00\x00"
_FLAGS_OF_LINK = b"\x35\x00\x03\x00\x00"
#: Field 15: the code ERROR, or nothing.
_FAILED, _FINE = b"\x7a\x02\x18\x02", b"\x7a\x00"


def encoded_spans(spans: Iterable[Span]) -> bytes:
    """The spans of a ScopeSpans."""
    return b"".join(_field(0x12, _span(span)) for span in spans)


def _span(span: Span) -> bytes:
    trace = span.trace
    is_first = trace.span_id == span.span_id
    parts = [b"\x0a\x10", bytes.fromhex(trace.trace_id), b"\x12\x08", bytes.fromhex(span.span_id)]
    if trace.tracestate:
        parts.append(_field(0x1A, _utf8(trace.tracestate)))
    if not is_first:
        parts += (b"\x22\x08", bytes.fromhex(trace.span_id))
    parts += (_head(span.name, span.kind), _MOMENTS.pack(0x39, span.start_ns, 0x41, span.end_ns))
    parts += [_attribute(name, value) for name, value in span.attributes.items()]
    if span.error:
        parts.append(_attribute("error.type", span.error))
    if span.link:
        parts.append(_field(0x6A, _link(trace, span.link)))
    parts += (_FAILED if span.error else _FINE, _FIRST if is_first else _BELOW_REMOTE)
    return b"".join(parts)


def _link(trace: TraceContext, span_id: str) -> bytes:
    ids = b"\x0a\x10" + bytes.fromhex(trace.trace_id) + b"\x12\x08" + bytes.fromhex(span_id)
    return ids + _FLAGS_OF_LINK


@lru_cache(maxsize=1024)
def _head(name: str, kind: str) -> bytes:
    return _field(0x2A, _utf8(name)) + bytes((0x30, _KINDS[kind]))


@lru_cache(maxsize=1024, typed=True)  # most of them are the same in thousands of spans
def _attribute(name: str, value: Attribute) -> bytes:
    return _field(0x4A, _field(0x0A, _utf8(name)) + _field(0x12, _value(value)))


def _value(value: Attribute) -> bytes:
    if isinstance(value, bool):
        return bytes((0x10, value))
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return b"\x18" + _varint(value % 2**64)
    return b"\x21" + _DOUBLE.pack(value) if isinstance(value, float) else _field(0x0A, _utf8(str(value)))


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")


def _field(tag: int, content: bytes) -> bytes:
    length = len(content)
    return bytes((tag, length)) + content if length < 128 else bytes((tag,)) + _varint(length) + content


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)
