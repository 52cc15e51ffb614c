"""The keys with their values and time limits. Every change is reported, since connections may watch keys."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

from core.redis_client import ResponseError

__all__ = ["Hash", "Keyspace", "Members", "SortedSet", "Stream", "StreamId", "Text"]

StreamId = tuple[int, int]  #: milliseconds, and a number within the same millisecond


class Text(bytes):
    """A string value."""


class Hash(dict[bytes, bytes]):
    """A hash: field -> value, in the order of insertion."""


class Members(dict[bytes, None]):
    """A set that keeps the order of insertion, so that runs are repeatable."""


class SortedSet(dict[bytes, float]):
    """A sorted set: member -> score."""

    def in_order(self) -> list[tuple[float, bytes]]:
        return sorted((score, member) for member, score in self.items())


class Stream:
    """A stream: entries by id. New ids are always higher, even after the clock was set back or entries were deleted."""

    def __init__(self) -> None:
        self._ids: list[StreamId] = []
        self._fields: dict[StreamId, list[bytes]] = {}
        self._last: StreamId = (0, 0)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, now_ms: int, fields: Sequence[bytes]) -> StreamId:
        self._last = (now_ms, 0) if now_ms > self._last[0] else (self._last[0], self._last[1] + 1)
        self._ids.append(self._last)
        self._fields[self._last] = list(fields)
        return self._last

    def between(self, first: StreamId, last: StreamId, count: int | None) -> list[tuple[StreamId, list[bytes]]]:
        """At most `count` entries from `first` to `last`, both included."""
        start, stop = bisect_left(self._ids, first), bisect_right(self._ids, last)
        if count is not None:
            stop = min(stop, start + count)
        return [(entry_id, self._fields[entry_id]) for entry_id in self._ids[start:stop]]

    def delete(self, entry_id: StreamId) -> bool:
        if self._fields.pop(entry_id, None) is None:
            return False
        del self._ids[bisect_left(self._ids, entry_id)]
        return True

    def trim(self, *, keep: int | None = None, from_id: StreamId = (0, 0)) -> int:
        """Removes the oldest entries beyond `keep`, or those before `from_id`. Returns their number."""
        dropped = bisect_left(self._ids, from_id) if keep is None else max(0, len(self._ids) - keep)
        for entry_id in self._ids[:dropped]:
            del self._fields[entry_id]
        del self._ids[:dropped]
        return dropped


Value = Text | Hash | Members | SortedSet | Stream
TYPES = {Text: b"string", Hash: b"hash", Members: b"set", SortedSet: b"zset", Stream: b"stream"}
T = TypeVar("T", Text, Hash, Members, SortedSet, Stream)


class Keyspace:
    """The keys of a store. `clock` returns seconds since 1970, and may be set. `on_change` is called with every key
    that changes or expires."""

    def __init__(self, clock: Callable[[], float], on_change: Callable[[bytes], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._values: dict[bytes, Value] = {}
        self._ends_ms: dict[bytes, int] = {}

    def now_s(self) -> float:
        return self._clock()

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    def exists(self, key: bytes) -> bool:
        """Whether the key exists. An expired key is deleted by this call."""
        if key in self._ends_ms and self._ends_ms[key] <= self.now_ms():
            self.drop(key)
        return key in self._values

    def find(self, key: bytes, kind: type[T]) -> T | None:
        """The value of `key`; None: there is none. Raises ResponseError when it is of another type."""
        if not self.exists(key):
            return None
        value = self._values[key]
        if not isinstance(value, kind):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def type_of(self, key: bytes) -> bytes:
        """The type of the key's value, as TYPE returns it."""
        return TYPES[type(self._values[key])] if self.exists(key) else b"none"

    def demand(self, key: bytes, kind: type[T]) -> T:
        """The value of `key`, which is made if it is missing. Raises ResponseError when it is of another type."""
        value = self.find(key, kind)
        if value is None:
            value = kind()
            self._values[key] = value
        return value

    def put(self, key: bytes, value: Value) -> None:
        """Replaces the key's value, and removes its time limit."""
        self._ends_ms.pop(key, None)
        self._values[key] = value
        self._on_change(key)

    def replace(self, key: bytes, value: Value) -> None:
        """Replaces the key's value, but keeps its time limit."""
        self._values[key] = value
        self._on_change(key)

    def changed(self, key: bytes) -> None:
        """Reports that a collection was changed in place. If it is empty, its key is deleted, unless it is a stream."""
        value = self._values[key]
        if not value and not isinstance(value, Stream | Text):
            self.drop(key)
        else:
            self._on_change(key)

    def drop(self, key: bytes) -> bool:
        self._ends_ms.pop(key, None)
        if self._values.pop(key, None) is None:
            return False
        self._on_change(key)
        return True

    def end_at(self, key: bytes, moment_ms: int) -> bool:
        """Sets the key's time limit. Returns whether the key exists."""
        if not self.exists(key):
            return False
        self._ends_ms[key] = moment_ms
        self._on_change(key)
        self.exists(key)
        return True

    def left_ms(self, key: bytes) -> int:
        """The key's time to live in ms; -1: it has no limit; -2: it does not exist."""
        if not self.exists(key):
            return -2
        return self._ends_ms[key] - self.now_ms() if key in self._ends_ms else -1
