"""Reads the event stream of a hierarchy: what is kept, and what comes, in order and each event once."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from core.agent_event import AgentEvent
from core.backoff import Backoff
from core.errors import BadEvent, ForgedRecord, PeerError, ServerRefused, TransportDown
from core.event_entry import entry_in
from core.event_types import EventType, event_type
from core.ports import Command, Connection, OpenConnection
from core.redis_backend.event_trail import BODY
from core.redis_backend.keys import CoordinatorKeys
from core.sealing import Sealed, Seals
from core.stored import pairs

__all__ = ["EventFeed", "Position", "SealsOf", "Wanted"]

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Entries that are read at once, how long the server waits for the next one, and the largest reply, in bytes.
PAGE, BLOCK_MS, MAX_BYTES = 100, 2000, 256 * 1024 * 1024
#: What `EventFeed` checks an agent's entries with, by its name; None: nobody here can check them.
SealsOf = Callable[[str], Seals | None]

_EVENT_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the stream: behind an event, or behind an entry with all of its events."""

    entry: bytes = b"0-0"  #: the entry's id
    index: int | None = None  #: of the event in it; None: behind all
    is_known: bool = False  #: whether there was an entry of this id, so that it can be missed

    @classmethod
    def after(cls, event_id: str) -> Position:
        """Behind the event of that id, or with "0" at the beginning of what is kept. Raises BadEvent."""
        if event_id == "0":
            return cls()
        found = _EVENT_ID.fullmatch(event_id)
        if found is None:
            raise BadEvent(f"{event_id[:80]!r} is no id of an event: take `id` of one that was told before, or '0'")
        index = int(found[3]) if found[3] else None
        return cls(f"{found[1]}-{found[2]}".encode(), index, is_known=True)

    @classmethod
    def since(cls, ms: int) -> Position:
        """From that time on, ms since 1970 by the server's clock."""
        return cls(f"{max(0, ms)}-0".encode(), -1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are wanted; what is None, or empty, admits all."""

    types: frozenset[str] = frozenset()
    task: str | None = None  #: the id of a task
    root: str | None = None  #: the id of a task, with all that is spawned below it
    agent: str | None = None  #: `worker-1`, or `worker:distributor-1/worker-1`

    @classmethod
    def of(
        cls, types: Iterable[str] = (), task: str | None = None, root: str | None = None, agent: str | None = None
    ) -> Wanted:
        """Raises BadEvent: there is no such type."""
        return cls(frozenset(map(event_type, types)), task, root, agent)

    def may_hold(self, body: bytes) -> bool:
        """Whether an entry may hold such an event, as far as its bytes tell."""
        return all(task_id is None or task_id.encode() in body for task_id in (self.task, self.root))

    def admits(self, event: AgentEvent) -> bool:
        return (
            (not self.types or event.type in self.types)
            and (self.task is None or event.task_id == self.task)
            and (self.root is None or event.root_id == self.root)
            and (self.agent is None or self.agent in _agents_of(event))
        )


def _agents_of(event: AgentEvent) -> Iterator[str]:
    """The agents that an event is of, or about, by their full and by their short names."""
    for name in (event.agent_id, *(event.data.get(role) for role in ("agent", "worker", "distributor"))):
        if isinstance(name, str):
            yield name
            yield re.split("[:/]", name)[-1]


class Page(NamedTuple):
    """Entries that follow each other, each with its id and its fields."""

    entries: list[tuple[bytes, list[bytes]]]
    is_behind_a_gap: bool  #: whether the entry of the position is not there any more


class EventFeed:
    """The events of one hierarchy, over a connection of its own."""

    def __init__(
        self,
        open_connection: OpenConnection,
        coordinator_id: str,
        seals_of: SealsOf | None = None,
        on_transport: Callable[[str], None] = lambda away: None,
    ) -> None:
        """`seals_of`: None where the seals of entries cannot be checked, since there is no root secret. `on_transport`
        is told why a live feed cannot reach Redis, and with an empty text that it can again."""
        self._open_connection = open_connection
        self._coordinator_id = coordinator_id
        self._key = CoordinatorKeys(coordinator_id).events
        self._seals_of = seals_of
        self._on_transport = on_transport
        self._places: dict[str, tuple[int, int]] = {}  # the latest commit of each agent

    async def events(self, begin: Position | None, wanted: Wanted, *, live: bool) -> AsyncGenerator[AgentEvent, None]:
        """The wanted events behind `begin`, in order; None: what comes from now on. `live`: it does not end, and while
        Redis is away it waits; otherwise it ends with what is kept.

        Where events were trimmed away before they were read, an event of the type `events_missed` says so in their
        place, whatever is wanted. Raises ServerRefused: this user may not read them; TransportDown, unless `live`."""
        connection = self._open_connection()
        try:
            if begin is None:
                begin = await self._reached(connection, live, partial(self._newest, connection))
            position = begin
            while True:
                look = partial(self._page, connection, position, live)
                page = await self._reached(connection, live, look)
                if position.is_known and page.is_behind_a_gap:
                    yield self._gap(position, page)
                for entry_id, fields in page.entries:
                    told = position.index if entry_id == position.entry else None
                    for event in self._events_of(entry_id, fields, wanted, -1 if told is None else told):
                        yield event
                    position = Position(entry_id, is_known=True)
                if not page.entries and not live:
                    return
        finally:
            await connection.close()

    async def _reached(self, connection: Connection, live: bool, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` finds. A live feed waits for a Redis that is away. Raises TransportDown otherwise."""
        backoff = Backoff()
        while True:
            try:
                await connection.connect()
                found = await look()
            except TransportDown as error:
                if not live:
                    raise
                self._on_transport(str(error))
                await asyncio.sleep(backoff.next(random.random()))
            else:
                self._on_transport("")
                return found

    async def _newest(self, connection: Connection) -> Position:
        newest = await self._ask(connection, ("XREVRANGE", self._key, "+", "-", "COUNT", 1))
        return Position(newest[0][0], is_known=True) if newest else Position()

    async def _page(self, connection: Connection, position: Position, live: bool) -> Page:
        """The next entries. Of a live feed it waits a moment for the first one."""
        entries = await self._ask(connection, ("XRANGE", self._key, position.entry, "+", "COUNT", PAGE))
        stands = bool(entries) and entries[0][0] == position.entry
        if stands and position.index is None:
            del entries[0]
        if not entries and live:
            block = ("XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", self._key, position.entry)
            await self._ask(connection, block)  # it is read with the position, so that a gap is seen
            return Page([], is_behind_a_gap=False)
        return Page(entries, is_behind_a_gap=not stands)

    async def _ask(self, connection: Connection, command: Command) -> Any:
        [reply] = await connection.exchange([command], timeout_s=BLOCK_MS / 1000 + 3, max_bytes=MAX_BYTES)
        if isinstance(reply, Exception):
            raise ServerRefused(f"Redis refused a read of {self._key}: {reply}")
        return reply

    def _events_of(self, entry_id: bytes, fields: list[bytes], wanted: Wanted, told: int) -> Iterator[AgentEvent]:
        """The wanted events of an entry, but for the first ones up to number `told`. None where it is not believed, or
        tells of a commit that was told of before: somebody else has written it."""
        body = pairs(fields).get(BODY, b"")
        if not wanted.may_hold(body):
            return
        try:
            entry = entry_in(entry_id, body)
            self._check(entry.agent_id, body)
            events = entry.events(self._coordinator_id)
        except (BadEvent, PeerError) as error:
            log.warning(
                "entry %s of %s is not believed: %s", entry_id.decode(), self._key, error,
                extra={"action": "event_rejected"},
            )  # fmt: skip
            return
        if entry.place > self._places.get(entry.agent_id, (-1, -1)):
            self._places[entry.agent_id] = entry.place
            yield from filter(wanted.admits, events[told + 1 :])

    def _check(self, agent_id: str, body: bytes) -> None:
        """Raises PeerError: it is not that agent who has written this."""
        if self._seals_of is not None:
            seals = self._seals_of(agent_id)
            if seals is None:
                raise ForgedRecord(f"{agent_id[:80]!r} is no agent")
            seals.opened(Sealed.EVENTS, agent_id, body)

    def _gap(self, position: Position, page: Page) -> AgentEvent:
        """Says that what was told behind `position` is not kept any more, as far as the next entry."""
        first = page.entries[0][0].decode() if page.entries else None
        return AgentEvent(
            EventType.EVENTS_MISSED, self._coordinator_id, data={"after": position.entry.decode(), "before": first},
            id=position.entry.decode(),
        )  # fmt: skip
