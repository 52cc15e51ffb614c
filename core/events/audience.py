"""One audience of an agent stream, as one of its consumers sees it. Every audience gets every event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from core.events.audience_scripts import BEAT, BURY, GOODBYE, OPEN, REPLAY, SETTLE, TAKE, TAKE_OVER
from core.events.stream_connection import StreamConnection, no_group
from core.events.stream_entry import Entry
from core.ports import Command, Part
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.keys import AudienceKeys
from core.redis_backend.scripted_exchange import unrefused

__all__ = ["TAKEN_AT_ONCE", "Audience"]

#: How many entries are taken off the stream at once.
TAKEN_AT_ONCE = 256
#: How many entries are acknowledged at once.
SETTLED_AT_ONCE = 1000
#: How many dead letters an audience keeps: more push the oldest out.
DEAD_LETTERS = 10_000
#: How long the number of tries of an entry is kept after the last one, ms.
TRIES_KEPT_MS = 7 * 86_400_000


class Audience:
    """A consumer group. Where it was lost, with the whole stream or without it, the next call makes it again, for all
    that the stream holds."""

    def __init__(self, connection: StreamConnection, keys: AudienceKeys, consumer: str, silent_after_ms: int) -> None:
        self.keys = keys
        self.consumer = consumer
        self._connection = connection
        self.silent_after_ms = silent_after_ms  #: silent for so long, a consumer counts as gone
        self.last = b"0-0"  #: the last id of the stream that this consumer knows of

    async def open(self) -> None:
        """Makes the group, if it is not there. Raises ServerRefused, TransportDown."""
        await self._connection.run(self._script(OPEN))

    async def take(self, settled: Sequence[tuple[str, str]], after: bytes) -> tuple[int, list[Entry]]:
        """Acknowledges `settled`, ids with their sessions, and returns entries in order: what this consumer was given
        after `after`, or else the next of the stream. Before them, how many those were with those of others: fewer
        than TAKEN_AT_ONCE, and there are no more for now."""
        if len(settled) > SETTLED_AT_ONCE:
            await self.settle(settled)
            settled = ()
        commands = [self._settle(settled)] if settled else []
        *_, (taken, last, mine) = await self._asked(*commands, self._script(TAKE, self.consumer, TAKEN_AT_ONCE, after))
        self.last = last or self.last
        return taken, [(msg_id, fields) for msg_id, fields in mine]

    async def own(self, after: bytes, count: int = TAKEN_AT_ONCE) -> list[Entry]:
        """This consumer's own pending entries after `after`, in order: a hundred or so at a time."""
        [mine] = await self._asked(self._own_command(after, count))
        return _entries(mine)

    async def settle(self, settled: Sequence[tuple[str, str]]) -> int:
        """Acknowledges ids with their sessions (empty: none). Returns how many of them were pending."""
        count = 0
        for first in range(0, len(settled), SETTLED_AT_ONCE):
            [some] = await self._asked(self._settle(settled[first : first + SETTLED_AT_ONCE]))
            count += some
        return count

    async def beat(self) -> bool:
        """Says that this consumer lives. False: others have taken over what it held before."""
        [known] = await self._asked(self._script(BEAT, self.consumer))
        return bool(known)

    async def take_over(self, min_idle_ms: int) -> int:
        """Takes over what consumers hold that do not live any more, or that never said so, and have been silent for at
        least so long. Returns how many entries that were."""
        [moved] = await self._asked(self._script(TAKE_OVER, self.consumer, self.silent_after_ms, min_idle_ms))
        return int(moved)

    async def fields(self, msg_id: str) -> Sequence[bytes]:
        """The fields of an entry of the stream; none if it is not there."""
        [found] = await self._connection.run(("XRANGE", self.keys.stream, msg_id, msg_id))
        return found[0][1] if found else ()

    async def leave(self) -> None:
        """Says goodbye: whatever this consumer holds may be taken over at once."""
        await self._connection.ask(self._script(GOODBYE, self.consumer))

    async def count_try(self, msg_id: str) -> int:
        """Counts that an entry is tried again. Returns how often that has happened, with this time."""
        tries = self.keys.tries
        [number, _] = await self._connection.run(("HINCRBY", tries, msg_id, 1), ("PEXPIRE", tries, TRIES_KEPT_MS))
        return int(number)

    async def bury(self, msg_id: str, session: str, fields: Sequence[Part], reason: str, attempts: int) -> None:
        """Makes a dead letter of an entry, which is acknowledged with it. Does nothing if that has happened already."""
        told: tuple[Part, ...] = ("id", msg_id, "reason", reason, "attempts", attempts)
        await self._asked(self._script(BURY, msg_id, session, DEAD_LETTERS, *fields, *told))

    async def letters(self, after: str, count: int) -> list[Entry]:
        """The dead letters after `after`, oldest first."""
        [found] = await self._connection.run(("XRANGE", self.keys.dead, f"({after}", "+", "COUNT", count))
        return [(msg_id, fields) for msg_id, fields in found]

    async def replay(self, letter_id: str, fields: Sequence[Part]) -> bytes | None:
        """Publishes a dead letter again, for this audience only. Returns its new id; None: it is not there any more."""
        [msg_id] = await self._asked(self._script(REPLAY, letter_id, *fields))
        return msg_id if isinstance(msg_id, bytes) else None

    async def _asked(self, *commands: Command) -> list[Any]:
        """The replies of `run`, after the group was made if it was not there."""
        replies = await self._connection.ask(*commands)
        if any(map(no_group, replies)):
            await self.open()
            replies = await self._connection.ask(*commands)
        return unrefused(commands, replies)

    def _settle(self, settled: Iterable[tuple[str, str]]) -> Command:
        return self._script(SETTLE, *(part for pair in settled for part in pair))

    def _own_command(self, after: bytes, count: int) -> Command:
        group, stream = self.keys.group, self.keys.stream
        return ("XREADGROUP", "GROUP", group, self.consumer, "COUNT", count, "STREAMS", stream, after)

    def _script(self, script: str, *arguments: Part) -> Command:
        keys = self.keys
        names = (keys.stream, keys.owners, keys.held, keys.alive, keys.tries, keys.dead)
        return ("EVALSHA", name_of(script), len(names), *names, keys.group, *arguments)


def _entries(reply: Any) -> list[Entry]:
    """The entries in a reply to XREAD or XREADGROUP of one stream."""
    return [(msg_id, fields) for msg_id, fields in reply[0][1]] if reply else []
