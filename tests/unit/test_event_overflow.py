"""What comes faster than a handler of a bus works: queues with a bound, and what their policies drop."""

from __future__ import annotations

import asyncio
import logging

import pytest

from core.event_types import EventType
from core.events import AgentEvent, EventBus, Overflow
from tests.gated_handler import CUSTOM, Gate, event, turns_of_the_loop


async def failing(heard: AgentEvent) -> None:
    raise LookupError(heard.data["text"])


@pytest.mark.parametrize(
    ("overflow", "handled"),
    [(Overflow.DROP_OLDEST, [0, 3, 4]), (Overflow.DROP_NEWEST, [0, 1, 2]), (Overflow.BLOCK, [0, 1, 2])],
)
async def test_publish_nowait_never_waits_and_the_policy_says_what_a_full_queue_drops(
    overflow: Overflow, handled: list[int]
) -> None:
    bus, gate = EventBus(), Gate()
    subscription = bus.subscribe([CUSTOM], gate, max_queue=2, overflow=overflow)
    bus.publish_nowait(event(0))
    await turns_of_the_loop()
    for number in range(1, 5):
        bus.publish_nowait(event(number))
        assert bus.get_stats()["queued"] <= 2
    gate.opened.set()
    await turns_of_the_loop()
    assert gate.ended == handled
    stats = bus.get_stats()["by_subscription"][subscription]
    assert (stats["handled"], stats["dropped"], stats["queued"]) == (3, 2, 0)


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_an_event_that_its_publisher_waits_for_is_not_dropped(overflow: Overflow) -> None:
    bus, gate = EventBus(), Gate()
    bus.subscribe([CUSTOM], gate, max_queue=1, overflow=overflow)
    bus.publish_nowait(event("runs"))
    await turns_of_the_loop()
    publishing = [asyncio.create_task(bus.publish(event(number))) for number in range(3)]
    await turns_of_the_loop()
    bus.publish_nowait(event("dropped"))
    gate.opened.set()
    await asyncio.gather(*publishing)
    assert gate.ended == ["runs", 0, 1, 2]
    assert bus.get_stats()["dropped"] == 1


async def test_a_publisher_waits_for_a_full_queue_that_blocks_only_until_its_time_is_up() -> None:
    bus, gate = EventBus(), Gate()
    bus.subscribe([CUSTOM], gate, max_queue=1, overflow="block", block_s=0.01)
    bus.publish_nowait(event("runs"))
    await turns_of_the_loop()
    bus.publish_nowait(event("waits"))
    await bus.publish(event("too late"))
    assert gate.began == ["runs"]
    gate.opened.set()
    await bus.aclose()
    assert gate.ended == ["runs", "waits"]
    assert bus.get_stats()["dropped"] == 1


async def test_a_publisher_that_waits_for_a_full_queue_is_served_when_there_is_time() -> None:
    bus, gate = EventBus(), Gate()
    bus.subscribe([CUSTOM], gate, max_queue=1, overflow=Overflow.BLOCK, block_s=60)
    bus.publish_nowait(event(0))
    await turns_of_the_loop()
    bus.publish_nowait(event(1))
    publishing = asyncio.create_task(bus.publish(event(2)))
    await turns_of_the_loop()
    gate.opened.set()
    await publishing
    assert gate.ended == [0, 1, 2]


async def test_dropped_events_are_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    bus, gate = EventBus(), Gate()
    bus.subscribe([CUSTOM], gate, max_queue=1)
    for number in range(5):
        bus.publish_nowait(event(number))
    gate.opened.set()
    await bus.aclose()
    assert [record.getMessage() for record in caplog.records] == [
        "events for sub_1 are dropped: they come faster than they are handled"
    ]


async def test_what_writes_the_log_may_publish_what_the_bus_writes_there() -> None:
    bus, gate = EventBus(), Gate()
    bus.subscribe([CUSTOM], failing)
    bus.subscribe([CUSTOM], gate, max_queue=1)
    bus.subscribe([EventType.ERROR], gate)

    class ToBus(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bus.publish_nowait(AgentEvent(EventType.ERROR, data={"text": record.levelname}))

    to_bus = ToBus()
    logging.getLogger("core.events").addHandler(to_bus)
    try:
        for number in range(3):
            bus.publish_nowait(event(number))
        gate.opened.set()
        await turns_of_the_loop()
    finally:
        logging.getLogger("core.events").removeHandler(to_bus)
    await bus.aclose()
    assert gate.ended.count("WARNING") == 1
    assert gate.ended.count("ERROR") == 3


async def test_what_a_handler_that_has_unsubscribed_leaves_behind_is_no_overflow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, gate = EventBus(), Gate()
    subscription = bus.subscribe([CUSTOM], gate)
    bus.publish_nowait(event())
    bus.unsubscribe(subscription)
    await bus.aclose()
    assert bus.get_stats()["dropped"] == 1
    assert caplog.records == []
