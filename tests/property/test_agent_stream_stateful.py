"""Audiences of an agent stream, whose consumers come, go and die in any order: each gets every event at least once, in
the order of its session, and never one that it has acknowledged.

Every operation goes to a real server, which is asked what has been acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import hypothesis.strategies as st
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from core.agent_event import AgentEvent
from core.config.settings import RedisConfig
from core.event_types import EventType
from core.events import AgentCoordinator
from core.events.stream_entry import ReceivedEvent
from core.redis_backend.keys import AudienceKeys
from tests.redis_server import RedisServer

STREAM = "agent_events"
T = TypeVar("T")
#: consumers, by number -> their group
GROUPS = ("a", "a", "a", "b")
SESSIONS = (None, "s", "t")
ONE = st.integers(0, len(GROUPS) - 1)


class Consumer:
    """One life of a consumer."""

    def __init__(self, config: RedisConfig, number: int, life: int) -> None:
        self.group = GROUPS[number]
        self.name = f"c{number}"
        self.coordinator = AgentCoordinator(config, STREAM, self.group, self.name, max_attempts=1000)
        self.events: AsyncGenerator[ReceivedEvent, None] | None = None
        self.seen: set[str] = set()  # what was handed to it

    async def next(self) -> ReceivedEvent | None:
        """The next event that is there; the one before was handled. None: there is none, and nothing is read now."""
        if self.events is None:
            self.events = self.coordinator.subscribe(timeout_ms=0, max_events=1000)
        event = await anext(self.events, None)
        if event is None:
            self.events = None
        else:
            self.seen.add(event.msg_id)
        return event

    async def stop(self) -> None:
        if self.events is not None:
            await self.events.aclose()
            self.events = None

    async def die(self) -> None:
        """As with kill -9: nothing is said any more."""
        session = self.coordinator._opened
        self.coordinator._opened = None
        for reader in session.readers.values() if session else ():
            reader._reading += 1
            await reader._stop_beating()
            await reader._waiting.close()
        if session:
            await session.connection.close()
        await self.stop()


class Audiences(RuleBasedStateMachine):
    """Two groups, one of them of three consumers."""

    server: RedisServer
    config: RedisConfig

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.plain: redis.Redis = self.server.connect()
        self.publisher = AgentCoordinator(self.config)
        self.consumers: list[Consumer] = []
        self.published: dict[str, str | None] = {}  # entry -> its session, in the order of the stream
        self.handed: defaultdict[str, set[str]] = defaultdict(set)  # group -> what any of its consumers was handed
        self.number = 0

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        self.plain.flushall()
        self.consumers = [Consumer(self.config, number, 0) for number in range(len(GROUPS))]
        for consumer in self.consumers:
            self.do(consumer.coordinator.initialize())

    # ---- what may happen ----

    @rule(sessions=st.lists(st.sampled_from(SESSIONS), min_size=1, max_size=8), twice=st.booleans())
    def somebody_publishes(self, sessions: list[str | None], twice: bool) -> None:
        events = []
        for session in sessions:
            self.number += 1
            events.append(AgentEvent(EventType.CUSTOM, data={"n": self.number}, session_id=session))
        for _ in range(1 + twice):  # whoever got no answer publishes once more
            ids = self.do(self.publisher.publish_many(events))
            self.published |= zip(ids, sessions, strict=True)

    @rule(who=ONE, most=st.integers(1, 6))
    def a_consumer_handles_events(self, who: int, most: int) -> None:
        for _ in range(most):
            if not self.handles_one(self.consumers[who]):
                break

    def handles_one(self, consumer: Consumer) -> bool:
        event = self.do(consumer.next())
        if event is None:
            return False
        handed, unacknowledged = self.handed[consumer.group], self.pending(consumer.group)
        if event.msg_id not in self.published:
            return True  # it was fetched before everything was lost
        assert event.msg_id not in handed - unacknowledged, "it has been acknowledged"
        for earlier, session in self.published.items():
            if earlier == event.msg_id:
                break
            if session is not None and session == event.event.session_id:
                assert earlier in handed, f"{earlier} of the same session was skipped"
                done_here = earlier in consumer.seen
                assert done_here or earlier not in unacknowledged, f"{earlier} is in other hands"
        handed.add(event.msg_id)
        return True

    @rule(who=ONE)
    def a_consumer_leaves_its_loop(self, who: int) -> None:
        self.do(self.consumers[who].stop())

    @rule(who=ONE)
    def a_consumer_starts_anew(self, who: int) -> None:
        self.do(self.consumers[who].stop())
        self.do(self.consumers[who].coordinator.close())
        self.consumers[who] = Consumer(self.config, who, 0)

    @rule(who=ONE, for_long=st.booleans())
    def a_consumer_is_killed(self, who: int, for_long: bool) -> None:
        consumer = self.consumers[who]
        self.do(consumer.die())
        if for_long:
            alive = AudienceKeys(STREAM, consumer.group).alive
            self.plain.zadd(alive, {consumer.name: 1}, xx=True)
        self.consumers[who] = Consumer(self.config, who, 0)

    @rule(group=st.sampled_from(("a", "b")), who=ONE)
    def abandoned_events_are_claimed_and_handled(self, group: str, who: int) -> None:
        consumer = self.consumers[who]
        claimed = self.do(consumer.coordinator.claim_abandoned_messages(min_idle_ms=0))
        self.handed[consumer.group] |= {event.msg_id for event in claimed}
        self.do(consumer.coordinator.acknowledge(*claimed))

    @rule(most=st.integers(0, 10), exact=st.booleans())
    def somebody_trims(self, most: int, exact: bool) -> None:
        groups = self.do(self.publisher.get_stream_info())["groups"]
        self.do(self.publisher.trim_stream(most, not exact))
        entries: list[Any] = self.plain.xrange(STREAM) or []
        kept = {msg_id.decode() for msg_id, _ in entries}
        for group in (str(group["name"]) for group in groups):
            done = self.handed[group] - self.pending(group)
            assert self.published.keys() - kept <= done, f"{group!r} had yet to read it"
        self.published = {msg_id: session for msg_id, session in self.published.items() if msg_id in kept}

    @rule()
    def everything_is_lost(self) -> None:
        self.plain.flushall()
        self.published.clear()
        self.handed.clear()

    # ---- what must hold ----

    def pending(self, group: str) -> set[str]:
        try:
            found: list[dict[str, Any]] = self.plain.xpending_range(STREAM, group, "-", "+", 10_000)
        except redis.ResponseError:  # everything was lost, and nobody has made the group again
            return set()
        return {entry["message_id"].decode() for entry in found}

    def teardown(self) -> None:
        for consumer in self.consumers:
            self.do(consumer.die())
        for group in ("a", "b"):
            for name, _ in self.plain.zscan_iter(AudienceKeys(STREAM, group).alive):
                self.plain.zadd(AudienceKeys(STREAM, group).alive, {name: 1})
        for number in (0, 3):
            last = Consumer(self.config, number, 0)
            while self.handles_one(last):
                pass
            assert self.handed[last.group] >= self.published.keys(), "an audience has missed something"
            assert self.pending(last.group) == set()
            keys = AudienceKeys(STREAM, last.group)
            self.do(last.coordinator.close())
            assert self.plain.exists(keys.owners, keys.held, keys.tries) == 0
        self.do(self.publisher.close())
        self.plain.close()
        self.loop.close()


def test_every_audience_gets_every_event_in_order_whatever_happens_to_its_consumers(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    machine = type("OnThisServer", (Audiences,), {"server": redis_server, "config": redis_config})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
