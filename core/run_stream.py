"""The stream of a run: what its graph tells while it runs, in the modes that its client has asked for.

One entry holds what was gathered in a short while: the attempt, and chunks as JSON, `[[mode, namespace, data], ...]`,
with a number that grows within the attempt, and the signature of its worker (see `run_keys`). The end of a run is its
task's record, not an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from core.json_values import readable
from core.run_keys import AttemptKey, RunKey

__all__ = [
    "LAST_PLACE",
    "MAX_BYTES",
    "MAX_ENTRIES",
    "STREAM_TTL_MS",
    "EntryCheck",
    "StreamChunk",
    "chunks_of",
    "entry_of",
    "place_of",
]

#: How long a stream is kept after its last entry.
STREAM_TTL_MS = 60 * 60 * 1000

#: Higher than the place of any chunk in its entry.
LAST_PLACE = 2**31
#: What the data of a chunk say that was not told.
LEFT_OUT = frozenset({"left_out", "left_out_bytes"})
#: How much is kept of a stream, in entries and, by their mean size, in bytes; the oldest go first.
MAX_ENTRIES, MAX_BYTES = 10_000, 64 * 1024 * 1024

_NUMBER = re.compile(rb"[0-9]{1,18}")
_CHUNK_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})/(-?[0-9]{1,10})")


class StreamChunk(Struct, frozen=True):
    """One chunk of a run's stream."""

    id: str  #: with `after`, a reader goes on behind it
    attempt: int
    #: a stream mode of LangGraph, or `lifecycle`: a new attempt has begun (`{"attempt": n}`; what came after the last
    #: finished node of the one before comes again), or the run has ended (`{"status": ...}`)
    mode: str
    namespace: tuple[str, ...] = ()  #: of the subgraph that tells it; empty: the graph itself
    data: Any = None

    @property
    def is_left_out(self) -> bool:
        """Whether it only says why it holds no data: there was too much of it, or no JSON holds it."""
        return isinstance(self.data, dict) and len(self.data) == 1 and not LEFT_OUT.isdisjoint(self.data)


def place_of(chunk_id: str) -> tuple[int, int, int]:
    """Where a chunk stands in its stream: time and number of its entry, and its place in that. Raises ValueError: no
    chunk can have such an id."""
    found = _CHUNK_ID.fullmatch(chunk_id)
    stamp, number, place = map(int, found.groups()) if found else (2**64, 0, 0)
    if max(stamp, number) >= 2**64:
        raise ValueError(f"there is no chunk {chunk_id[:80]!r}")
    return stamp, number, place


def entry_of(
    key: str, attempt: int, number: int, chunks: Iterable[bytes], signs: AttemptKey | None, kept: int = MAX_ENTRIES
) -> tuple[Sequence[bytes | str | int], ...]:
    """The commands that append chunks, each `[mode, namespace, data]` as JSON, to the stream `key`. `number`: higher
    than that of any entry of this attempt before. `signs`: None: nobody has given the worker a key. `kept`: how many
    entries there are then, about."""
    body = b"[%b]" % b",".join(chunks)
    signed = () if signs is None else ("number", number, "kid", signs.key_id, "mac", signs.mac(number, body))
    return (
        ("XADD", key, "MAXLEN", "~", kept, "*", "attempt", attempt, "chunks", body, *signed),
        ("PEXPIRE", key, STREAM_TTL_MS),
    )


def chunks_of(entry_id: bytes, fields: Mapping[bytes, bytes], after_place: int = -1) -> list[StreamChunk]:
    """The chunks of an entry of which an EntryCheck knows that a worker has written it, but for those up to
    `after_place`. A number in them that is too large for any parser is its text."""
    attempt, stamp = int(fields[b"attempt"]), entry_id.decode()
    return [
        StreamChunk(f"{stamp}/{place}", attempt, mode, tuple(namespace), data)
        for place, (mode, namespace, data) in enumerate(readable(fields[b"chunks"]))
        if place > after_place
    ]


class EntryCheck:
    """Tells what the workers of one run have written from what others have appended to its stream, for one reader.

    An entry counts once, where it stands first: a copy further behind does not. Nor does what an attempt tells when
    another has been heard that has replaced it."""

    def __init__(self, keys: Iterable[RunKey]) -> None:
        self._last = (0, -1)  #: attempt and number of the last entry that counted
        self.use(keys)

    def use(self, keys: Iterable[RunKey]) -> None:
        """Checks with these keys from now on, and with no others."""
        self._keys = {key.key_id.encode(): key for key in keys}
        self._attempts: dict[tuple[bytes, int], AttemptKey] = {}  #: those that have signed an entry, by id and number

    def is_signed(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a worker of the run has written this entry."""
        key_id, mac, chunks = fields.get(b"kid", b""), fields.get(b"mac", b""), fields.get(b"chunks", b"")
        numbers = fields.get(b"attempt", b""), fields.get(b"number", b"")
        if key_id not in self._keys or not all(map(_NUMBER.fullmatch, numbers)):
            return False
        attempt, number = map(int, numbers)
        key = self._attempts.get((key_id, attempt)) or self._keys[key_id].of_attempt(attempt)
        if not key.has_signed(number, chunks, mac):
            return False
        self._attempts[key_id, attempt] = key  # only now, since anybody can make up attempts
        return True

    def takes(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a signed entry counts."""
        found = int(fields[b"attempt"]), int(fields[b"number"])
        if found <= self._last:
            return False
        self._last = found
        return True
