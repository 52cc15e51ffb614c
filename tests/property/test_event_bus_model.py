"""Any program on a bus, beside a model of it that is a list: who hears what, in which order, and how many at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from core.event_types import EventType
from core.events import AgentEvent, EventBus, Overflow

TYPES = (EventType.CUSTOM, EventType.ERROR)
STREAMS = ("", "a")
MANY = 10_000


@dataclass
class Listener:
    """A subscription, and what the model knows of it: it wants what is published between two counts of events."""

    types: frozenset[EventType]
    stream: str | None
    id: str = ""
    since: int = 0
    until: int = MANY
    heard: list[int] = field(default_factory=list)

    def wants(self, event: AgentEvent) -> bool:
        in_time = self.since < event.sequence <= self.until
        return in_time and event.type in self.types and self.stream in (None, event.stream_id)


class Program:
    """Does what it is told with a bus. Handlers do what their event holds: yield, publish, wait for that."""

    def __init__(self, permits: int, max_queue: int, max_history: int, overflow: Overflow) -> None:
        self.overflow = overflow
        self.bus, self.permits, self.max_queue = EventBus(max_history, permits), permits, max_queue
        self.listeners: list[Listener] = []
        self.publishing: list[asyncio.Task[None]] = []
        self.published: list[AgentEvent] = []
        self.at_work = 0
        self.cancelled = False

    async def run(self, steps: list[Any]) -> None:
        for step in steps:
            match step:
                case ("subscribe", types, stream):
                    self.subscribe(Listener(types, stream))
                case ("unsubscribe", place) if self.listeners:
                    self.unsubscribe(self.listeners[place % len(self.listeners)])
                case ("publish", told):
                    self.publishing.append(asyncio.create_task(self.publish(told)))
                case ("publish_nowait", told):
                    self.publish_nowait(told)
                case ("cancel", place) if self.publishing:
                    self.publishing[place % len(self.publishing)].cancel()
                    self.cancelled = True
                case ("yield", count):
                    await turns(count)
        for ended in await asyncio.gather(*self.publishing, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError), ended
        await self.bus.aclose()

    def subscribe(self, listener: Listener) -> None:
        async def handler(event: AgentEvent) -> None:
            self.works(+1)
            try:
                listener.heard.append(event.sequence)
                assert listener.until == MANY, "it has unsubscribed"
                await turns(event.data["yields"])
                for nested in event.data["nested"]:
                    await self.nested(nested)
            finally:
                self.works(-1)

        listener.since = self.bus.get_stats()["total_events"]
        listener.id = self.bus.subscribe(
            listener.types, handler, listener.stream,
            max_queue=self.max_queue, overflow=self.overflow, block_s=0.0,
        )  # fmt: skip
        self.listeners.append(listener)

    async def nested(self, told: dict[str, Any]) -> None:
        if told["awaited"]:
            self.works(-1)  # it is away, until it has what it waits for
            try:
                await self.publish(told)
            finally:
                self.works(+1)
        else:
            self.publish_nowait(told)

    def unsubscribe(self, listener: Listener) -> None:
        if self.bus.unsubscribe(listener.id):
            listener.until = self.bus.get_stats()["total_events"]

    async def publish(self, told: dict[str, Any]) -> None:
        event = self.event(told)
        await self.bus.publish(event)
        for listener in self.listeners:
            if listener.wants(event) and listener.until == MANY and self.overflow is not Overflow.BLOCK:
                assert event.sequence in listener.heard, "publish returned before the handler had run"

    def publish_nowait(self, told: dict[str, Any]) -> None:
        self.bus.publish_nowait(self.event(told))

    def event(self, told: dict[str, Any]) -> AgentEvent:
        event = AgentEvent(EventType(told["type"]), told["stream"], data=told)
        self.published.append(event)
        return event

    def works(self, change: int) -> None:
        self.at_work += change
        assert self.at_work <= self.permits


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def events(nested: Any) -> Any:
    return st.fixed_dictionaries(
        {
            "type": st.sampled_from([kind.value for kind in TYPES]), "stream": st.sampled_from(STREAMS),
            "yields": st.integers(0, 3), "nested": nested, "awaited": st.booleans(),
        }
    )  # fmt: skip


EVENTS = events(st.lists(events(st.lists(events(st.just([])), max_size=2)), max_size=2))
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("subscribe"), st.frozensets(st.sampled_from(TYPES), min_size=1),
            st.sampled_from([None, *STREAMS]),
        ),
        st.tuples(st.sampled_from(["unsubscribe", "cancel"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["publish", "publish_nowait"]), EVENTS),
        st.tuples(st.just("yield"), st.integers(1, 5)),
    ),
    max_size=12,
)  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(
    steps=STEPS, permits=st.integers(1, 3), max_queue=st.sampled_from([1, 2, MANY]), max_history=st.integers(0, 5),
    overflow=st.sampled_from(Overflow),
)  # fmt: skip
def test_a_bus_does_what_its_model_does(
    steps: list[Any], permits: int, max_queue: int, max_history: int, overflow: Overflow
) -> None:
    program = Program(permits, max_queue, max_history, overflow)
    asyncio.run(asyncio.wait_for(program.run(steps), 60))

    told = sorted((event for event in program.published if event.sequence), key=lambda event: event.sequence)
    stats = program.bus.get_stats()
    assert [event.sequence for event in told] == list(range(1, stats["total_events"] + 1))
    assert program.bus.get_history(limit=None) == told[::-1][:max_history]
    assert [each.error for each in program.bus.get_errors()] == []
    assert (stats["running"], stats["queued"], program.at_work) == (0, 0, 0)
    for listener in program.listeners:
        wanted = [event.sequence for event in told if listener.wants(event)]
        assert listener.heard == [number for number in wanted if number in set(listener.heard)], "not in order"
        if listener.until == MANY:
            outcomes = stats["by_subscription"][listener.id]
            assert sum(outcomes.values()) == len(wanted)
            assert len(listener.heard) >= outcomes["handled"]
            assert outcomes["dropped"] == 0 or max_queue < MANY or program.cancelled
