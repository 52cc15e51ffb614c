"""How long an agent stream may get, and what of it may go: nothing that an audience has yet to read, unless told so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.errors import ConfigError, StreamFull
from core.events.stream_connection import StreamConnection, no_key
from core.ports import Command
from core.redis_backend.scripted_exchange import unrefused
from core.stored import pairs

__all__ = ["StreamBound", "groups_of", "trim"]

#: When the bound is reached, this share of it goes at once, so that not every event has to look.
SHARE_THAT_GOES = 10
#: The server forgets whole nodes of a stream cheaply; so many entries are in one by default.
NODE = 128


class StreamBound:
    """Keeps a stream at about `max_length` entries; None: without a bound."""

    def __init__(self, connection: StreamConnection, stream: str, max_length: int | None, *, drop_unread: bool) -> None:
        """`drop_unread`: the oldest entries go when the bound is reached, whoever has yet to read them."""
        if max_length is not None and max_length < 1:
            raise ConfigError(f"max_length is {max_length}, and has to be 1 or more. None is no bound.")
        self._connection = connection
        self._stream = stream
        self._max_length = max_length
        self._drop_unread = drop_unread
        self._room = 0  # how many may be published before the next look

    async def make_room(self, count: int) -> None:
        """Makes room for as many events. Raises StreamFull: there is none; ServerRefused, TransportDown."""
        if self._max_length is None:
            return
        if self._room < count:
            self._room = await self._room_for(count, self._max_length)
        self._room -= count

    async def _room_for(self, count: int, most: int) -> int:
        [length] = await self._connection.run(("XLEN", self._stream))
        length, share = int(length), max(1, most // SHARE_THAT_GOES)
        if length + count > most:
            too_many = length + count + share - most
            exact = too_many <= NODE
            length -= await trim(self._connection, self._stream, too_many, exact=exact, drop_unread=self._drop_unread)
        if length + count > most + NODE and length:
            await self._refuse(most)
        return max(count, min(share, most - length))

    async def _refuse(self, most: int) -> None:
        holding = await _holding(self._connection, self._stream)
        who = min(holding, key=lambda name: _ordinal(holding[name]), default="")
        raise StreamFull(
            f"stream {self._stream!r} has its {most} entries, and audience {who!r} has yet to read the oldest. Let it"
            f" read; if nobody reads it any more, XGROUP DESTROY {self._stream} {who}; or use a larger max_length,"
            " or drop_unread=True, which lets the oldest go."
        )


async def trim(connection: StreamConnection, stream: str, count: int, *, exact: bool, drop_unread: bool) -> int:
    """Removes the oldest entries, at most about `count` of them (at most `count`, and no fewer, if `exact`). It stops
    at the first that an audience has yet to read, or to acknowledge, unless `drop_unread`. Returns how many have gone.

    Raises ServerRefused, TransportDown."""
    if count <= 0:
        return 0
    floor = None if drop_unread else min((await _holding(connection, stream)).values(), key=_ordinal, default=None)
    removed = 0
    if count > NODE or not exact:
        oldest_kept = floor or b"18446744073709551615"
        command: Command = ("XTRIM", stream, "MINID", "~", oldest_kept, "LIMIT", count)
        [removed] = await connection.run(command)
    return removed + (await _trim_exactly(connection, stream, count - removed, floor) if exact else 0)


async def _trim_exactly(connection: StreamConnection, stream: str, count: int, floor: bytes | None) -> int:
    removed = 0
    while removed < count:
        step = min(NODE, count - removed)
        [entries] = await connection.run(("XRANGE", stream, "-", "+", "COUNT", step))
        going = [msg_id for msg_id, _ in entries if floor is None or _ordinal(msg_id) < _ordinal(floor)]
        if not going:
            break
        [gone] = await connection.run(("XDEL", stream, *going))
        removed += gone
    return removed


async def _holding(connection: StreamConnection, stream: str) -> dict[str, bytes]:
    """For each audience the first entry that must stay for it: the first that is pending, or the last it was given.

    A group that nobody has ever read, beside groups of the same name with a filter, is none: its consumers all have
    filters."""
    groups = await groups_of(connection, stream)
    names = {str(group["name"]) for group in groups}
    holding = {}
    for group in groups:
        name, last = str(group["name"]), group["last-delivered-id"].encode()
        if last == b"0-0" and not group["consumers"] and any(other.startswith(f"{name}[") for other in names):
            continue
        [pending] = await connection.run(("XPENDING", stream, name))
        holding[name] = pending[1] or last
    return holding


async def groups_of(connection: StreamConnection, stream: str) -> list[dict[str, Any]]:
    """What XINFO GROUPS says, with texts as text; nothing for a stream that is not there. Raises ServerRefused."""
    command = ("XINFO", "GROUPS", stream)
    [reply] = await connection.ask(command)
    if no_key(reply):
        return []
    [groups] = unrefused([command], [reply])
    return [dict(_told(pairs(group))) for group in groups]


def _told(fields: dict[bytes, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in fields.items():
        yield name.decode(), value.decode(errors="replace") if isinstance(value, bytes) else value


def _ordinal(msg_id: bytes) -> tuple[int, int]:
    ms, _, sequence = msg_id.partition(b"-")
    return int(ms), int(sequence or 0)
