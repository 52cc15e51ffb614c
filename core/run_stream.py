"""The stream of a run: what its graph tells while it runs, in the modes that its client has asked for.

One entry holds what was gathered in a short while: the attempt, and chunks as JSON, `[[mode, namespace, data], ...]`.
The end of a run is its task's record, not an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["STREAM_TTL_MS", "StreamChunk", "chunks_of", "entry_of"]

#: How long a stream is kept after its last entry.
STREAM_TTL_MS = 60 * 60 * 1000

#: Number of entries that are kept of a stream; the oldest go first.
MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """One chunk of a run's stream."""

    id: str  #: with `after`, a reader goes on behind it
    attempt: int
    #: a stream mode of LangGraph, or `lifecycle`: a new attempt has begun (`{"attempt": n}`; what came after the last
    #: finished node of the one before comes again), or the run has ended (`{"status": ...}`)
    mode: str
    namespace: tuple[str, ...] = ()  #: of the subgraph that tells it; empty: the graph itself
    data: Any = None


def entry_of(key: str, attempt: int, chunks: Iterable[bytes]) -> tuple[Sequence[bytes | str | int], ...]:
    """The commands that append chunks, each `[mode, namespace, data]` as JSON, to the stream `key`."""
    body = b"[%b]" % b",".join(chunks)
    return (
        ("XADD", key, "MAXLEN", "~", MAX_ENTRIES, "*", "attempt", attempt, "chunks", body),
        ("PEXPIRE", key, STREAM_TTL_MS),
    )


def chunks_of(entry_id: bytes, fields: dict[bytes, bytes], after_place: int = -1) -> Iterator[StreamChunk]:
    """The chunks of an entry, but for those up to `after_place`."""
    attempt = int(fields[b"attempt"])
    for place, (mode, namespace, data) in enumerate(orjson.loads(fields[b"chunks"])):
        if place > after_place:
            yield StreamChunk(f"{entry_id.decode()}/{place}", attempt, mode, tuple(namespace), data)
