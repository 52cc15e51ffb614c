"""What a graph does while it runs, as events: its nodes, its models and tools, and what it writes for observers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import orjson
from pydantic_core import to_json

from core.errors import BadEvent
from core.event_types import EventType
from core.redis_backend.clock import monotonic_s
from core.trace_context import TraceContext
from worker.authoring.context import Context
from worker.hosts.messages import Spanned

__all__ = ["STREAM_MODES", "callbacks_for", "chunk_json", "json_shown", "span_callbacks", "tell_chunk"]

#: What a run that is observed streams besides its state: what `get_stream_writer` is given, and its nodes.
STREAM_MODES = ("custom", "tasks")
#: Longer values are cut, as text.
SHOWN_BYTES = 4096
#: Larger chunks of a stream are left out.
CHUNK_BYTES = 256 * 1024

E = EventType


def tell_chunk(context: Context, mode: str, chunk: Any, began_s: dict[str, float]) -> None:
    """Tells of a chunk of one of STREAM_MODES. `began_s`: when each node that runs has begun, which it keeps."""
    with suppress(BadEvent):  # of a node whose name is too long, say: no reason for the run to fail
        _tell_chunk(context, mode, chunk, began_s)


def _tell_chunk(context: Context, mode: str, chunk: Any, began_s: dict[str, float]) -> None:
    if mode == "custom":
        shown = json_shown(chunk)
        context.emit(E.CUSTOM, shown if isinstance(shown, dict) else {"value": shown})
    elif "input" in chunk:
        began_s[chunk["id"]] = monotonic_s()
        context.emit(E.NODE_STARTED, {"name": chunk["name"]}, node=chunk["name"])
    elif chunk.get("error"):
        context.emit(E.NODE_FAILED, {"name": chunk["name"], "error": json_shown(chunk["error"])}, node=chunk["name"])
    else:
        took_ms = round((monotonic_s() - began_s.pop(chunk["id"], monotonic_s())) * 1000, 1)
        context.emit(E.NODE_COMPLETED, {"name": chunk["name"], "duration_ms": took_ms}, node=chunk["name"])


def callbacks_for(context: Context) -> list[Any]:
    """LangChain callbacks that tell of the models and the tools which a run calls."""
    from worker.hosts.graph_callbacks import GraphCallbacks

    return [GraphCallbacks(context)]


def span_callbacks(context: Context, run: int, tell: Callable[[Spanned], None]) -> list[Any]:
    """LangChain callbacks that tell spans of a run; none if it is in no trace that is recorded."""
    trace = TraceContext.parsed(context.traceparent)
    if trace is None or not trace.sampled:
        return []
    from worker.hosts.graph_spans import GraphSpans

    return [GraphSpans(run, trace, tell)]


def chunk_json(mode: str, namespace: Sequence[str], data: Any) -> bytes:
    """A chunk of a stream as JSON, `[mode, namespace, data]`. Instead of data with more than CHUNK_BYTES, it says how
    many there are; what is no JSON is text. Of data that cannot be told even so, it says why: the run goes on."""
    try:
        told = to_json(data, fallback=repr, serialize_unknown=True, inf_nan_mode="null")
    except ValueError as error:  # bytes that are no text, half a character, a __repr__ that fails
        told = to_json({"left_out": str(error).encode(errors="replace").decode()})
    if len(told) > CHUNK_BYTES:
        told = orjson.dumps({"left_out_bytes": len(told)})
    return orjson.dumps([mode, namespace, orjson.Fragment(told)])


def json_shown(value: Any) -> Any:
    """The value as JSON values; what is none of it, or too long, as the beginning of its text. Of what has no text, it
    says why: the run goes on."""
    try:
        said = orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):
        said = b""
    if said and len(said) <= SHOWN_BYTES:
        return orjson.loads(said)
    try:
        text = repr(value)
    except Exception as error:  # its __repr__ fails, or it is nested too deeply
        return f"it cannot be shown: {type(error).__name__}"
    return text[:SHOWN_BYTES].encode(errors="replace").decode()
