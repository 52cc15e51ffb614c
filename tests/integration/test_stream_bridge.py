"""Events between buses, each as in a process of its own, over one agent stream of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from core.agent_event import AgentEvent
from core.event_types import EventType
from core.events import AgentCoordinator, EventBus, StreamBridge
from tests.integration.agent_stream import STREAM, Make, custom, pending, read
from tests.waiting import until_async


class Place:
    """A bus with a bridge, and what its subscriber has heard."""

    def __init__(self, bus: EventBus, bridge: StreamBridge) -> None:
        self.bus, self.bridge = bus, bridge
        self.heard: list[int] = []
        bus.subscribe(None, self.hear)

    async def hear(self, event: AgentEvent) -> None:
        self.heard.append(event.data["n"])


@asynccontextmanager
async def place(coordinator: AgentCoordinator, **options: Any) -> AsyncIterator[Place]:
    async with EventBus() as bus, StreamBridge(bus, coordinator, **options) as bridge:
        yield Place(bus, bridge)


async def test_what_is_published_on_one_bus_is_heard_once_on_each(stream: Make, client: redis.asyncio.Redis) -> None:
    async with place(stream("one")) as one, place(stream("two")) as two, place(stream()) as three:
        places = (one, two, three)
        for number in range(30):
            places[number % 3].bus.publish_nowait(custom(n=number))
        await until_async(lambda: all(len(each.heard) >= 30 for each in places), "all are heard")
        await until_async(lambda: _nothing_to_do(client, "one", "two"), "what came back is acknowledged")
        assert [sorted(each.heard) for each in places] == [list(range(30))] * 3
        assert await client.xlen(STREAM) == 30


async def _nothing_to_do(client: redis.asyncio.Redis, *groups: str) -> bool:
    info = await client.xinfo_groups(STREAM)
    ends = {group["last-delivered-id"] for group in info}
    return len(ends) == 1 and not any([await pending(client, group) for group in groups])


async def test_two_streams_between_two_buses_make_no_circle(stream: Make, client: redis.asyncio.Redis) -> None:
    async with (
        EventBus() as bus,
        EventBus() as other,
        StreamBridge(bus, stream("a", stream_name="there")),
        StreamBridge(other, stream("b", stream_name="there")),
        StreamBridge(other, stream("b", stream_name="back")),
        StreamBridge(bus, stream("a", stream_name="back")),
    ):
        heard: list[int] = []

        async def hear(event: AgentEvent) -> None:
            heard.append(event.data["n"])

        other.subscribe(None, hear)
        for number in range(5):
            await bus.publish(custom(n=number))
        await until_async(lambda: {*heard} == {*range(5)}, "the events are on the other bus")
        bus.publish_nowait(custom(n=5))
        await until_async(lambda: 5 in heard, "one more is there")
    assert max(map(heard.count, heard)) <= 2  # once over each stream
    assert [await client.xlen(name) <= 12 for name in ("there", "back")] == [True, True]  # from each bridge once


async def test_what_is_published_before_the_end_is_sent(stream: Make) -> None:
    async with place(stream("one")) as here:
        for number in range(1000):
            here.bus.publish_nowait(custom(n=number))
    assert [event["n"] for event in await read(stream())] == list(range(1000))


async def test_what_the_bus_is_about_to_hand_over_at_the_end_is_sent(stream: Make) -> None:
    coordinator = stream()
    async with EventBus() as bus:
        for turns in range(6):  # of the loop, before the bridge closes
            async with StreamBridge(bus, coordinator, to_bus=()):
                bus.publish_nowait(custom(n=turns))
                for _ in range(turns):
                    await asyncio.sleep(0)
    assert [event["n"] for event in await read(coordinator)] == list(range(6))


async def test_what_is_on_its_way_at_the_end_is_sent(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream()
    async with EventBus() as bus:
        async with StreamBridge(bus, coordinator) as bridge:
            await client.client_pause(300, all=False)
            await bus.publish(custom(n=1))
            await until_async(lambda: not bridge.queued, "it is on its way, and the server does not answer yet")
        await coordinator.close()
    assert await client.xlen(STREAM) == 1


async def test_only_the_types_that_are_asked_for_are_carried(stream: Make, client: redis.asyncio.Redis) -> None:
    publisher = stream()
    async with place(stream("one"), to_stream=[EventType.ERROR], to_bus=["state_changed"]) as here:
        await here.bus.publish(custom(n=1))
        await here.bus.publish(AgentEvent(EventType.ERROR, data={"n": 2}))
        await publisher.publish(custom(n=3))
        await publisher.publish(AgentEvent(EventType.STATE_CHANGED, data={"n": 4}))
        await until_async(lambda: 4 in here.heard, "the state is heard")
    assert here.heard == [1, 2, 4]
    assert sorted(event["n"] for event in await read(publisher)) == [2, 3, 4]


@pytest.mark.parametrize("way", ["to_stream", "to_bus"])
async def test_a_way_can_be_closed(stream: Make, way: str) -> None:
    publisher = stream()
    async with place(stream("one"), **{way: []}) as here:
        await here.bus.publish(custom(n=1))
        await publisher.publish(custom(n=2))
        if way == "to_stream":
            await until_async(lambda: 2 in here.heard, "the stream is heard")
    assert here.heard == ([1, 2] if way == "to_stream" else [1])
    assert len(await read(publisher)) == (1 if way == "to_stream" else 2)


async def test_an_event_of_the_stream_is_acknowledged_when_the_handlers_have_run(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    async with EventBus() as bus, StreamBridge(bus, stream("g")):
        unacknowledged: list[int] = []

        async def hear(event: AgentEvent) -> None:
            unacknowledged.append(await pending(client))

        bus.subscribe(None, hear)
        await stream().publish(custom(n=1))
        await until_async(lambda: bool(unacknowledged), "the event is heard")
        await stream().publish(custom(n=2))
        await until_async(lambda: len(unacknowledged) == 2, "the next event is heard")
    assert unacknowledged == [1, 1]


async def test_while_the_stream_is_full_the_latest_wait_and_the_rest_is_counted(stream: Make) -> None:
    reader, publisher = stream("slow", max_length=200), stream(max_length=200)
    await reader.initialize()
    async with place(publisher, max_queue=100, to_bus=[]) as here:
        for number in range(1000):
            await here.bus.publish(custom(n=number))
            if number == 500:
                await until_async(lambda: here.bridge.dropped > 0, "the stream is full")
        dropped = await until_async(lambda: here.bridge.dropped, "some were dropped")
        got = [event["n"] async for event in reader.subscribe(max_events=1000 - dropped)]
    assert got == sorted(set(got))
    assert got[-1] == 999
    assert len(here.heard) == 1000


async def test_an_event_that_is_too_large_for_the_stream_holds_up_no_other(stream: Make) -> None:
    async with place(stream(), to_bus=[]) as here:
        here.bus.publish_nowait(custom(n=1))
        here.bus.publish_nowait(custom(n=2, text="x" * 300_000))
        here.bus.publish_nowait(custom(n=3))
    assert here.heard == [1, 2, 3]
    assert [event["n"] for event in await read(stream())] == [1, 3]
