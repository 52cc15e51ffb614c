"""The feed of a hierarchy's events: where it begins, what it leaves out, and what it does not believe."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from core.agent_event import AgentEvent
from core.errors import BadEvent
from core.event_entry import EventRow, row_of
from core.event_types import EventLevel, EventType
from core.memory_backend.clock import ServerTime
from core.memory_backend.connection import MemoryConnection, packed
from core.memory_backend.store import MemoryStore
from core.operations.acl import chain_of_user
from core.operations.event_feed import EventFeed, Position, Wanted
from core.redis_backend.event_trail import EventTrail
from core.redis_backend.keys import CoordinatorKeys
from core.sealing import Seals
from core.signing import KeyRing
from tests.builders import SECRET
from tests.waiting import until_async

E = EventType
KEY = CoordinatorKeys("k").events
ALL = Wanted()


def seals_of(agent: str) -> Seals | None:
    chain = chain_of_user(agent, "k")
    return KeyRing.from_secret(SECRET, chain).seals if chain else None


class Hierarchy:
    """Agents that tell what a test has them tell, and a feed of that."""

    def __init__(self) -> None:
        self.store = MemoryStore(ServerTime())
        self._session = self.store.open_session()
        self._versions: dict[str, int] = {}

    def ask(self, *command: Any) -> Any:
        name, *arguments = map(packed, command)
        return self.store.execute(self._session, name.decode(), arguments)

    def tell(self, *rows: EventRow, agent: str = "coordinator:k", level: EventLevel = EventLevel.ALL) -> str:
        """Returns the entry's id."""
        seals = seals_of(agent)
        assert seals
        trail = EventTrail(KEY, agent, seals, level)
        self._versions[agent] = self._versions.get(agent, 0) + 1
        entry_id: bytes = self.ask(*trail.entry(trail.tells(rows), self._versions[agent], 7))
        return entry_id.decode()

    def feed(self, **fields: Any) -> EventFeed:
        return EventFeed(lambda: MemoryConnection(self.store), "k", **{"seals_of": seals_of, **fields})

    async def kept(self, begin: Position | None = None, wanted: Wanted = ALL, **fields: Any) -> list[AgentEvent]:
        events = self.feed(**fields).events(begin or Position(), wanted, live=False)
        return [event async for event in events]


@pytest.fixture
def told() -> Hierarchy:
    return Hierarchy()


def submitted(task_id: str, root_id: str | None = None) -> EventRow:
    return (E.TASK_SUBMITTED, task_id, root_id, "sum", "client:bob")


def ids(events: Sequence[AgentEvent]) -> list[str | None]:
    return [event.task_id for event in events]


async def test_an_event_says_what_where_when_and_in_which_commit(told: Hierarchy) -> None:
    entry = told.tell(submitted("t/0", "t"), (E.TASK_ASSIGNED, "t/0", "t", "d"))

    first, second = await told.kept()

    assert first.to_dict() == {
        **AgentEvent(E.TASK_SUBMITTED).to_dict(), "stream_id": "k", "agent_id": "coordinator:k", "task_id": "t/0",
        "root_id": "t", "data": {"task_type": "sum", "client": "client:bob"}, "id": f"{entry}-0",
        "timestamp": first.timestamp.isoformat(), "sequence": first.sequence,
    }  # fmt: skip
    assert (second.type, second.data, second.id) == (E.TASK_ASSIGNED, {"distributor": "d"}, f"{entry}-1")
    assert first.sequence < second.sequence


async def test_it_goes_on_behind_the_event_that_was_told_last_also_within_one_commit(told: Hierarchy) -> None:
    told.tell(submitted("a"), submitted("b"), submitted("c"))
    told.tell(submitted("d"))
    events = await told.kept()

    for place, event in enumerate(events):
        assert ids(await told.kept(Position.after(event.id))) == ids(events[place + 1 :])


async def test_what_was_trimmed_away_before_it_was_read_is_said_and_not_hidden(told: Hierarchy) -> None:
    read = told.tell(submitted("a"))
    told.tell(submitted("b"))
    kept = told.tell(submitted("c"))
    told.ask("XTRIM", KEY, "MAXLEN", 1)

    [gap, event] = await told.kept(Position.after(f"{read}-0"), Wanted.of(task="c"))

    assert (gap.type, gap.data) == (E.EVENTS_MISSED, {"after": read, "before": kept})
    assert event.task_id == "c"
    assert [one.type for one in await told.kept(Position.after(event.id))] == []


async def test_a_stream_that_is_gone_is_a_gap_too(told: Hierarchy) -> None:
    read = told.tell(submitted("a"))
    told.ask("DEL", KEY)

    assert [event.type for event in await told.kept(Position.after(read))] == [E.EVENTS_MISSED]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted.of(), ["t", "t/0", "u", None, "u"]),
        (Wanted.of(types=["agent_joined", "TASK_COMPLETED"]), [None, "u"]),
        (Wanted.of(task="t"), ["t"]),
        (Wanted.of(root="t"), ["t", "t/0"]),
        (Wanted.of(agent="w"), [None, "u"]),
        (Wanted.of(agent="d"), [None]),
        (Wanted.of(agent="worker:w"), [None]),
        (Wanted.of(agent="nobody"), []),
    ],
)
async def test_only_what_is_wanted_is_told(told: Hierarchy, wanted: Wanted, found: list[str | None]) -> None:
    told.tell(submitted("t"), submitted("t/0", "t"), submitted("u"))
    told.tell(row_of(E.AGENT_JOINED, "worker:w"), agent="distributor:d")
    told.tell((E.TASK_COMPLETED, "u", None, 1, "x/w"))

    assert ids(await told.kept(wanted=wanted)) == found


@pytest.mark.parametrize("event_id", ["x", "1", "1-", "1-2-3-4", "1-2-x", "-1-2", ""])
def test_what_is_no_id_is_refused_with_the_cure(event_id: str) -> None:
    with pytest.raises(BadEvent, match="take `id` of one that was told before"):
        Position.after(event_id)


@pytest.mark.parametrize(
    ("level", "types"),
    [
        (EventLevel.AGENTS, [E.AGENT_JOINED]),
        (EventLevel.TASKS, [E.AGENT_JOINED, E.TASK_ASSIGNED]),
        (EventLevel.ALL, [E.AGENT_JOINED, E.TASK_ASSIGNED, E.CUSTOM]),
    ],
)
async def test_a_level_tells_what_the_ones_before_it_tell(
    told: Hierarchy, level: EventLevel, types: list[EventType]
) -> None:
    rows = (row_of(E.AGENT_JOINED, "worker:w"), (E.TASK_ASSIGNED, "t", None, "d"), {"type": E.CUSTOM, "task_id": "t"})
    told.tell(*rows, level=level)

    assert [event.type for event in await told.kept()] == types


def test_off_tells_nothing() -> None:
    seals = seals_of("coordinator:k")
    assert seals
    trail = EventTrail(KEY, "coordinator:k", seals, EventLevel.OFF)
    assert trail.tells([row_of(kind) for kind in E]) == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"no JSON", b"[]", b"{}", b'{"agent":"coordinator:k","epoch":9,"version":9,"events":[]}',
        b'{"agent":"coordinator:k","epoch":9,"version":9,"events":[["task_purged","t",null]]}',
        b'{"agent":"x","epoch":9,"version":9,"events":[],"mac":"00000000:00000000000000000000000000000000"}',
    ],
)  # fmt: skip
async def test_what_no_agent_has_written_is_passed_over_and_logged(
    told: Hierarchy, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    told.tell(submitted("a"))
    told.ask("XADD", KEY, "*", "body", body)
    told.tell(submitted("b"))

    assert ids(await told.kept()) == ["a", "b"]
    assert [getattr(record, "action", "") for record in caplog.records] == ["event_rejected"]


async def test_a_commit_that_somebody_tells_again_is_passed_over(told: Hierarchy) -> None:
    entry = told.tell(submitted("a"))
    told.tell(submitted("b"))
    [[_, fields]] = told.ask("XRANGE", KEY, entry, entry)
    told.ask("XADD", KEY, "*", *fields)

    assert ids(await told.kept()) == ["a", "b"]


async def test_without_the_root_secret_what_is_written_is_believed(told: Hierarchy) -> None:
    body = b'{"agent":"coordinator:k","epoch":9,"version":9,"events":[["task_purged","t",null]]}'
    told.ask("XADD", KEY, "*", "body", body)

    assert ids(await told.kept(seals_of=None)) == ["t"]


async def test_a_live_feed_begins_with_what_comes_and_waits_for_it(told: Hierarchy) -> None:
    told.tell(submitted("before"))
    async with aclosing(told.feed().events(None, ALL, live=True)) as events:
        coming = asyncio.ensure_future(anext(events))
        await until_async(lambda: bool(told.store._blocked), "it waits")
        told.tell(submitted("a"))

        assert (await coming).task_id == "a"


async def test_the_stream_is_bounded_by_bytes_too(told: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> None:
    seals = seals_of("coordinator:k")
    assert seals
    monkeypatch.setattr("core.redis_backend.event_trail.MAX_BYTES", 100_000)
    trail = EventTrail(KEY, "coordinator:k", seals, EventLevel.ALL)
    for version in range(1, 200):
        told.ask(*trail.entry([(E.TASK_REFUSED, "t", None, "x" * 5_000)], version, 7))

    assert 10 < told.ask("XLEN", KEY) <= 20
