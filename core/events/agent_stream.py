"""The agent stream: events between processes, kept in one Redis Stream.

    async with AgentCoordinator(consumer_group="billing") as coordinator:
        async for event in coordinator.subscribe([EventType.TOOL_RESULT]):
            print(event["tool_name"], event["result"])

A consumer group is an audience, and every audience gets every event at least once. The consumers of one group share
its events: those of one session go to one of them at a time, in order. An event is acknowledged once it was handled.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Self
from uuid import uuid4

from core.agent_event import AgentEvent
from core.backoff import Backoff
from core.config.settings import A2ASecrets, RedisConfig
from core.config.variables import secret_text
from core.errors import BadEvent, ConfigError, NoGroup, PeerError
from core.event_types import EventType, event_type
from core.events.audience import Audience
from core.events.dead_letter import DeadLetter
from core.events.group_reader import GroupReader
from core.events.stream_bound import groups_of, trim
from core.events.stream_connection import no_key
from core.events.stream_emitters import StreamEmitters
from core.events.stream_entry import EntryFormat, ReceivedEvent
from core.events.stream_session import StreamSession
from core.machine.local_secrets import resolve_secret
from core.redis_backend.bounded_reads import LAST_ID, name_of
from core.redis_backend.keys import AudienceKeys
from core.redis_backend.scripted_exchange import unrefused
from core.signing import stream_keys
from core.stored import pairs
from core.wiring import redis_or_configured, secrets_or_configured, server_for

__all__ = ["AgentCoordinator"]

log = logging.getLogger(__name__)

#: How many events travel in one write.
BATCH = 500
#: How many abandoned events one call claims, and how many dead letters one call lists.
CLAIMED_AT_ONCE, LISTED_AT_ONCE = 1000, 100
#: Pauses of `consume` before it tries an event again: the first, doubled each time up to the longest.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0

Handler = Callable[[ReceivedEvent], Awaitable[object]]


class AgentCoordinator(StreamEmitters):
    """Publishes events to an agent stream, and reads it. It belongs to one event loop; close it, or use `async with`.

    Every call connects when it has to. Every call may raise TransportDown: Redis is away, and what was asked may or may
    not have happened; ServerRefused; ConfigError: no secret to sign with, or a wrong setting.
    """

    def __init__(
        self,
        redis_url: str | RedisConfig | None = None,
        stream_name: str = "agent_events",
        consumer_group: str | None = None,
        consumer_name: str | None = None,
        *,
        max_length: int | None = 100_000,
        drop_unread: bool = False,
        max_attempts: int = 5,
        silent_after_ms: int = 10_000,
        secret: str | None = None,
    ) -> None:
        """`redis_url`: None means the configured server, which is `redis://localhost:6379` unless settings say
        otherwise. `consumer_group`: the audience that this consumer belongs to; without one, a plain cursor reads.
        `consumer_name`: made up when it is left out. A name that comes again finds what it has not acknowledged.

        `max_length`: about so many events are kept, and None means all. The oldest go, but none that an audience has
        yet to read, unless `drop_unread`. `max_attempts`: after so many attempts an event is a dead letter.
        `silent_after_ms`: a consumer that has been silent for so long is gone; those that live say so three times as
        often, also while a handler works. `secret`: what the signatures follow from, in place of A2A_TOKEN_SECRET.
        """
        if consumer_group is not None and (not consumer_group or "[" in consumer_group):
            raise ConfigError("consumer_group is empty or has a '[', which begins the filter of an audience")
        if max_attempts < 1 or silent_after_ms < 1:
            raise ConfigError("max_attempts and silent_after_ms have to be 1 or more")
        self._redis = RedisConfig(url=redis_url, mode="external") if isinstance(redis_url, str) else redis_url
        self._stream = stream_name
        self._group = consumer_group
        self._consumer = consumer_name or (f"consumer_{uuid4().hex[:8]}" if consumer_group else None)
        self._bounds = (max_length, drop_unread)
        self._max_attempts = max_attempts
        self._silent_after_ms = silent_after_ms
        self._secrets = A2ASecrets(token_secret=secret)
        self._opening = asyncio.Lock()
        self._opened: StreamSession | None = None

    @property
    def consumer_group(self) -> str | None:
        """The audience that this consumer belongs to; None: it reads by a plain cursor."""
        return self._group

    # ---- opening and closing ----

    async def initialize(self) -> None:
        """Connects, and makes the consumer group for all that the stream holds; does nothing when that was done."""
        await self._open()

    async def close(self) -> None:
        """Disconnects. What was handed out and not acknowledged may be handed to others at once. The next call opens
        it again."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> StreamSession:
        async with self._opening:
            if self._opened is None:
                self._opened = await self._made()
        return self._opened

    async def _made(self) -> StreamSession:
        secrets = secrets_or_configured(self._secrets)
        redis = redis_or_configured(self._redis)
        entries = _entry_format(self._stream, secrets, redis)
        opened = StreamSession(await server_for(redis, secrets), self._stream, entries, *self._bounds)
        if self._group is not None:
            try:
                await self._audience(opened, self._group).open()
            except BaseException:
                await opened.close()
                raise
        return opened

    # ---- publishing ----

    async def publish(self, event: AgentEvent) -> str:
        """Publishes an event. Returns its id in the stream.

        Raises BadEvent: it would not come back as it is, and nothing was sent. StreamFull: an audience has yet to read
        what would have to go. After TransportDown, publishing the same event again is safe for readers that look at
        its id."""
        [msg_id] = await self.publish_many([event])
        return msg_id

    async def publish_many(self, events: Iterable[AgentEvent]) -> list[str]:
        """Publishes events in their order, many in one write. Returns their ids in the stream.

        Raises as `publish`. All are checked before the first is sent; of those that were sent when an error is raised,
        some may be in the stream, from the first on."""
        opened = await self._open()
        entries = iter([opened.entries.fields(event) for event in events])
        most, _ = self._bounds
        ids: list[bytes] = []
        while batch := list(islice(entries, BATCH if most is None else min(BATCH, most))):
            await opened.bound.make_room(len(batch))
            ids += await opened.connection.run(*(("XADD", self._stream, "*", *fields) for fields in batch))
        return [msg_id.decode() for msg_id in ids]

    # ---- reading ----

    def subscribe(
        self,
        event_types: Sequence[str] | None = None,
        timeout_ms: int | None = None,
        max_events: int | None = None,
        *,
        after: str | None = None,
        auto_ack: bool = True,
    ) -> AsyncGenerator[ReceivedEvent, None]:
        """Events, in the order of the stream, as dicts with the `_msg_id` of each.

        `event_types`: only these, None for all. In a group, the consumers with one filter are an audience of their own,
        so that a filter takes nothing from the others. `max_events`: ends after so many; 0 is none. `timeout_ms`: such
        a bounded subscription ends when nothing has come for so long; otherwise it waits. One without `max_events` goes
        on until it is left.

        In a group, an event is acknowledged when the next one is asked for, or the subscription ends by itself: it was
        handled then. With `auto_ack=False` that is up to `acknowledge`. When the body of the loop is left by an
        exception, or by `break`, the event is handed out again. Those that this consumer has not acknowledged come
        first. A consumer has one subscription with the same types at a time: a new one ends the other.

        Without a group it reads after the event with the id `after`; '0', as without it, is the first that is kept, and
        '$' the next that is published. It resumes with the `_msg_id` of the last one that was handled."""
        within_s, left = _within_s(timeout_ms, max_events), _count(max_events)
        if self._group is None:
            return self._by_cursor(event_types, within_s, left, after or "0")
        if after is not None:
            raise NoGroup("a group keeps its own position: `after` is for a coordinator without consumer_group")
        return self._by_group(event_types, within_s, left, auto_ack)

    async def _by_group(
        self, event_types: Sequence[str] | None, within_s: float | None, left: float, auto_ack: bool
    ) -> AsyncGenerator[ReceivedEvent, None]:
        reader = await self._reader(event_types)
        async with reader.subscription() as number:
            while left and (event := await reader.next(number, within_s)):
                left -= 1
                if not auto_ack:
                    yield event
                    continue
                try:
                    yield event
                except BaseException:
                    reader.release(event)
                    raise
                reader.handled(event)

    async def _by_cursor(
        self, event_types: Sequence[str] | None, within_s: float | None, left: float, after: str
    ) -> AsyncGenerator[ReceivedEvent, None]:
        opened = await self._open()
        after = await self.last_id() if after == "$" else after
        async with opened.cursor(after, _wanted(event_types)) as cursor:
            while left and (event := await cursor.next(within_s)):
                left -= 1
                yield event

    async def consume(
        self,
        handler: Handler,
        event_types: Sequence[str] | None = None,
        timeout_ms: int | None = None,
        max_events: int | None = None,
    ) -> int:
        """Calls `handler` with each event of the group, one after the other. Returns how many it has handled.

        An event is acknowledged when the handler returns. When it raises, it is called again after a pause, and after
        `max_attempts` times the event is a dead letter. Ends as `subscribe` does. Raises NoGroup."""
        self._needed_group()
        done = 0
        reader, left = await self._reader(event_types), _count(max_events)
        async with reader.subscription() as number:
            while left and (event := await reader.next(number, _within_s(timeout_ms, max_events))):
                left -= 1
                try:
                    done += await _handle(reader, event, handler)
                except BaseException:
                    reader.release(event)
                    raise
        return done

    async def acknowledge(self, *events: ReceivedEvent | str) -> int:
        """Acknowledges events, or entries by their `_msg_id`: the group does not get them again. Returns how many of
        them were pending. Raises NoGroup."""
        self._needed_group()
        await self._reader(None)
        opened = await self._open()
        count = 0
        for reader in opened.readers.values():
            group = reader.audience.keys.group
            ids = [
                event if isinstance(event, str) else event.msg_id
                for event in events
                if isinstance(event, str) or event.group == group
            ]
            count += await reader.acknowledge(ids) if ids else 0
        return count

    async def claim_abandoned_messages(self, min_idle_ms: int = 300_000) -> list[ReceivedEvent]:
        """Takes over what consumers of the group hold that are gone, and returns up to a thousand of these events; the
        next call returns further ones. They are in the hands of this consumer until it acknowledges them.

        A consumer is gone when it has been silent for longer than `silent_after_ms`, and for `min_idle_ms` as well, or
        when it has said goodbye; not because its handler takes long. Whoever subscribes takes over by itself: this is
        for programs that do not. Raises NoGroup."""
        self._needed_group()
        claimed: list[ReceivedEvent] = []
        for reader in await self._all_readers():
            claimed += await reader.claim(min_idle_ms, CLAIMED_AT_ONCE - len(claimed))
        return claimed

    # ---- dead letters ----

    async def dead_letters(self, limit: int = LISTED_AT_ONCE, after: str = "0") -> list[DeadLetter]:
        """The group's dead letters, oldest first, after the one with the id `after`. Raises NoGroup."""
        self._needed_group()
        opened = await self._open()
        letters = []
        for reader in await self._all_readers():
            audience = reader.audience
            found = await audience.letters(after, limit)
            letters += [
                DeadLetter.of(audience.keys.group, letter_id, fields or (), opened.entries)
                for letter_id, fields in found
            ]
        return letters[:limit]

    async def replay(self, letter: DeadLetter) -> str | None:
        """Publishes a dead letter again, for its audience only. Returns its new id in the stream; None: it was replayed
        already, or is not kept any more. Raises NoGroup."""
        self._needed_group()
        opened = await self._open()
        msg_id = await self._audience(opened, letter.group).replay(letter.letter_id, letter.fields)
        return None if msg_id is None else msg_id.decode()

    # ---- care ----

    async def last_id(self) -> str:
        """The last id that the stream has given out: `subscribe(after=...)` begins with the next event."""
        [last] = await (await self._open()).connection.run(("EVALSHA", name_of(LAST_ID), 1, self._stream))
        return last.decode() if last else "0-0"

    async def get_stream_info(self) -> dict[str, Any]:
        """`length`, `first_entry` and `last_entry` (each an id and what is in the event; None: there is none), and
        `groups` as XINFO GROUPS tells them. Of a stream that is not there: `length` 0, no `groups`.

        Raises ServerRefused, for instance when this user may not look."""
        opened = await self._open()
        command = ("XINFO", "STREAM", self._stream)
        [reply] = await opened.connection.ask(command)
        if no_key(reply):
            return {"length": 0, "groups": []}
        [flat] = unrefused([command], [reply])
        info = pairs(flat)
        return {
            "length": info[b"length"],
            "first_entry": _shown(info[b"first-entry"], opened.entries),
            "last_entry": _shown(info[b"last-entry"], opened.entries),
            "groups": await groups_of(opened.connection, self._stream),
        }

    async def trim_stream(self, max_length: int, approximate: bool = True, *, drop_unread: bool = False) -> int:
        """Removes the oldest events down to `max_length`, or a few more, if `approximate`. Returns how many.

        It stops at the first that an audience has yet to read or to acknowledge, unless `drop_unread`."""
        opened = await self._open()
        [length] = await opened.connection.run(("XLEN", self._stream))
        return await trim(
            opened.connection, self._stream, length - max_length, exact=not approximate, drop_unread=drop_unread
        )

    # ---- audiences ----

    def _needed_group(self) -> str:
        if self._group is None:
            raise NoGroup("this takes a consumer group: AgentCoordinator(..., consumer_group=NAME)")
        return self._group

    async def _reader(self, event_types: Sequence[str] | None) -> GroupReader:
        wanted = _wanted(event_types)
        opened = await self._open()
        group = self._needed_group() + (f"[{','.join(sorted(wanted))}]" if wanted is not None else "")
        return self._reader_of(opened, group, wanted)

    async def _all_readers(self) -> list[GroupReader]:
        """Of the group, and of its parts with a filter, those of other processes too."""
        await self._reader(None)
        opened = await self._open()
        for group in await groups_of(opened.connection, self._stream):
            name, _, types = str(group["name"]).partition("[")
            if name == self._group and types:
                self._reader_of(opened, str(group["name"]), _wanted(types.removesuffix("]").split(",")))
        return list(opened.readers.values())

    def _reader_of(self, opened: StreamSession, group: str, wanted: frozenset[EventType] | None) -> GroupReader:
        if group not in opened.readers:
            audience = self._audience(opened, group)
            opened.readers[group] = GroupReader(
                audience, opened.entries, wanted, self._max_attempts, opened.new_connection()
            )
        return opened.readers[group]

    def _audience(self, opened: StreamSession, group: str) -> Audience:
        keys = AudienceKeys(self._stream, group)
        return Audience(opened.connection, keys, self._consumer or "", self._silent_after_ms)


def _entry_format(stream: str, a2a: A2ASecrets, redis: RedisConfig) -> EntryFormat:
    if a2a.agent_key and not a2a.token_secret:
        raise ConfigError(
            "An agent stream is signed with a key that follows from A2A_TOKEN_SECRET, and here is only A2A_AGENT_KEY."
            " Give the programs of this stream a secret of their own: AgentCoordinator(..., secret=...)."
        )
    previous = secret_text(a2a.previous_secret)
    return EntryFormat(stream_keys(stream, resolve_secret(a2a, redis), previous.encode() if previous else None))


def _wanted(event_types: Sequence[str] | None) -> frozenset[EventType] | None:
    if event_types is None:
        return None
    if isinstance(event_types, str) or not event_types:
        raise BadEvent("event_types is a list of types; None means all")
    return frozenset(map(event_type, event_types))


def _count(max_events: int | None) -> float:
    return float("inf") if max_events is None else max(0, max_events)


def _within_s(timeout_ms: int | None, max_events: int | None) -> float | None:
    """How long a subscription waits for its next event; None: as long as it takes."""
    return None if timeout_ms is None or max_events is None else timeout_ms / 1000


async def _handle(reader: GroupReader, event: ReceivedEvent, handler: Handler) -> bool:
    """Calls the handler until it returns. False: it has failed too often."""
    pauses = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)
    while True:
        try:
            await handler(event)
        except Exception as error:
            log.warning("a handler has failed: %r", error, extra={"action": "handler_failed", "attempt": event.attempt})
            if not await reader.failed(event, f"{type(error).__name__}: {error}"[:1000]):
                return False
            await asyncio.sleep(pauses.next(random.random()))
        else:
            reader.handled(event)
            return True


def _shown(entry: Any, entries: EntryFormat) -> tuple[str, dict[str, Any]] | None:
    """An entry's id and what is in its event: nothing, if it is none."""
    if entry is None:
        return None
    msg_id, fields = entry[0].decode(), entry[1]
    try:
        return msg_id, entries.event(msg_id, fields)
    except (PeerError, BadEvent):
        return msg_id, {}
