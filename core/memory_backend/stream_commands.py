"""The commands on streams, with the options that the system uses. Only the server chooses ids (`*`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.memory_backend.arguments import integer_of, pairs_of, stream_id_of, stream_id_text, syntax_error
from core.memory_backend.commands import Arguments, CommandSpec
from core.memory_backend.keyspace import Keyspace, Stream, StreamId
from core.redis_client import ResponseError

__all__ = ["STREAM_COMMANDS", "block_ms_of"]

HIGHEST = 2**64 - 1
LAST: StreamId = (HIGHEST, HIGHEST)
NAMES_AND_VALUES = frozenset({b"COUNT", b"BLOCK"})


def xadd(space: Keyspace, given: Arguments) -> bytes:
    """XADD key [MAXLEN [~ | =] count] * field value ... It keeps exactly `count` entries, even with ~."""
    key, rest = given[0], list(given[1:])
    keep: int | None = None
    if rest[0].upper() == b"MAXLEN":
        keep, rest = _limit(rest[1:])
    if not rest or rest.pop(0) != b"*":
        raise ResponseError("ERR Invalid stream ID specified as stream command argument")
    fields = [part for pair in pairs_of("xadd", rest) for part in pair]
    stream = space.demand(key, Stream)
    added = stream.add(space.now_ms(), fields)
    if keep is not None:
        stream.trim(keep=keep)
    space.changed(key)
    return stream_id_text(added)


def _limit(parts: Sequence[bytes]) -> tuple[int, list[bytes]]:
    """The number after MAXLEN, and the remaining arguments."""
    parts = list(parts)
    if parts and parts[0] in (b"~", b"="):
        parts.pop(0)
    if not parts:
        raise syntax_error()
    keep = integer_of(parts.pop(0))
    if keep < 0:
        raise ResponseError("ERR The MAXLEN argument must be >= 0.")
    return keep, parts


def xtrim(space: Keyspace, given: Arguments) -> int:
    """XTRIM key MAXLEN [~ | =] count, or XTRIM key MINID id"""
    key, kind, *rest = given
    keep: int | None = None
    from_id: StreamId = (0, 0)
    if kind.upper() == b"MAXLEN":
        keep, rest = _limit(rest)
    elif kind.upper() == b"MINID":
        from_id = stream_id_of(rest.pop(0))
    else:
        raise syntax_error()
    if rest:
        raise syntax_error()
    stream = space.find(key, Stream)
    dropped = 0 if stream is None else stream.trim(keep=keep, from_id=from_id)
    if dropped:
        space.changed(key)
    return dropped


def xdel(space: Keyspace, given: Arguments) -> int:
    stream = space.find(given[0], Stream)
    if stream is None:
        return 0
    deleted = sum(map(stream.delete, [stream_id_of(text) for text in given[1:]]))
    if deleted:
        space.changed(given[0])
    return deleted


def xlen(space: Keyspace, given: Arguments) -> int:
    return len(space.find(given[0], Stream) or ())


def xrange(space: Keyspace, given: Arguments) -> list[list[Any]] | None:
    """XRANGE key first last [COUNT count]"""
    key, first, last, *options = given
    return _range(space, key, first, last, options)


def xrevrange(space: Keyspace, given: Arguments) -> list[list[Any]] | None:
    """XREVRANGE key last first [COUNT count]"""
    key, last, first, *options = given
    return _range(space, key, first, last, options, newest_first=True)


def _range(
    space: Keyspace, key: bytes, first: bytes, last: bytes, options: list[bytes], *, newest_first: bool = False
) -> list[list[Any]] | None:
    low = (0, 0) if first == b"-" else stream_id_of(first)
    high = LAST if last == b"+" else stream_id_of(last, number=HIGHEST)
    if options and (len(options) != 2 or options[0].upper() != b"COUNT"):
        raise syntax_error()
    count = integer_of(options[1]) if options else None
    stream = space.find(key, Stream)
    if stream is None:
        return []
    if count is not None and count <= 0:
        return None
    entries = _entries(stream, low, high, None if newest_first else count)
    return entries[::-1][:count] if newest_first else entries


def xread(space: Keyspace, given: Arguments) -> list[list[Any]] | None:
    """XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]. The connection does the waiting."""
    wanted = _wanted(given)
    found = []
    for key, after in wanted.streams:
        stream = space.find(key, Stream) or Stream()
        milliseconds, number = stream_id_of(after)
        if entries := _entries(stream, (milliseconds, number + 1), LAST, wanted.count):
            found.append([key, entries])
    return found or None


def block_ms_of(given: Arguments) -> int | None:
    """How long an XREAD waits, in ms; 0: without a limit; None: not at all. Raises ResponseError."""
    return _wanted(given).block_ms


@dataclass(frozen=True, slots=True)
class _Wanted:
    streams: list[tuple[bytes, bytes]]  #: the key of each, and the id behind which is read
    count: int | None
    block_ms: int | None


def _wanted(given: Arguments) -> _Wanted:
    options: dict[bytes, bytes] = {}
    rest = list(given)
    while len(rest) > 1 and rest[0].upper() in NAMES_AND_VALUES:
        options[rest[0].upper()] = rest[1]
        del rest[:2]
    if len(rest) < 3 or rest[0].upper() != b"STREAMS":
        raise syntax_error()
    named = len(rest) // 2
    if len(rest) != 1 + 2 * named:
        raise ResponseError(
            "ERR Unbalanced 'xread' list of streams: for each stream key an ID, '+', or '$' must be specified."
        )
    count = integer_of(options[b"COUNT"]) if b"COUNT" in options else 0
    streams = list(zip(rest[1 : named + 1], rest[named + 1 :], strict=True))
    return _Wanted(streams, count if count > 0 else None, _block_ms(options.get(b"BLOCK")))


def _block_ms(text: bytes | None) -> int | None:
    if text is None:
        return None
    block_ms = integer_of(text, "ERR timeout is not an integer or out of range")
    if block_ms < 0:
        raise ResponseError("ERR timeout is negative")
    return block_ms


def _entries(stream: Stream, first: StreamId, last: StreamId, count: int | None) -> list[list[Any]]:
    return [[stream_id_text(entry_id), list(fields)] for entry_id, fields in stream.between(first, last, count)]


STREAM_COMMANDS: dict[str, CommandSpec] = {
    "XADD": CommandSpec(xadd, 4),
    "XTRIM": CommandSpec(xtrim, 3),
    "XDEL": CommandSpec(xdel, 2),
    "XLEN": CommandSpec(xlen, 1, 1),
    "XRANGE": CommandSpec(xrange, 3),
    "XREVRANGE": CommandSpec(xrevrange, 3),
    "XREAD": CommandSpec(xread, 3),
}
