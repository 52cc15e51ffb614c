"""Audiences of the agent stream against a real server: who gets what, until when, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
import redis.asyncio

from core.errors import BadEvent, EventLoopError
from core.event_types import EventType
from core.events import AgentCoordinator
from core.events.stream_entry import ReceivedEvent
from tests.integration.agent_stream import STREAM, Make, blocked, custom, numbers, pending, publish, read
from tests.waiting import until_async


class Broken(Exception):
    """What a handler raises."""


async def read_and_fail(coordinator: AgentCoordinator, **options: Any) -> ReceivedEvent:
    """Leaves a subscription by an exception in its first event, and returns that."""
    seen = None
    try:
        async with aclosing(coordinator.subscribe(timeout_ms=0, max_events=10, **options)) as events:
            async for event in events:
                seen = event
                raise Broken
    except Broken:
        pass
    assert seen
    return seen


# ---- who gets what ----


async def test_every_group_and_every_cursor_gets_every_event(stream: Make) -> None:
    await publish(stream(), 20)
    for audience in (stream("a"), stream("b"), stream(), stream("late")):
        assert numbers(await read(audience)) == list(range(20))


async def test_consumers_of_one_group_share_its_events(stream: Make) -> None:
    await publish(stream(), 1000)
    one, other = stream("g"), stream("g")
    got = await asyncio.gather(*(read(consumer) for consumer in (one, other)))
    assert sorted(numbers(got[0]) + numbers(got[1])) == list(range(1000))
    assert await read(stream("g")) == []


async def test_a_filter_takes_nothing_from_a_peer_in_the_same_group(stream: Make) -> None:
    publisher, tools, errors, everything = stream(), stream("g"), stream("g"), stream("g")
    for number in range(5):
        await publisher.publish_error("s", "E", str(number))
    await publisher.publish_tool_result("t", "s", 1, 1.0)
    assert [event["type"] for event in await read(tools, event_types=["tool_result"])] == ["tool_result"]
    assert len(await read(errors, event_types=[EventType.ERROR])) == 5
    assert len(await read(everything)) == 6


async def test_consumers_with_the_same_filter_share(stream: Make) -> None:
    for number in range(6):
        await stream().publish_error("s", "E", str(number))
    assert len(await read(stream("g"), 3, event_types=["error", "tool_result"])) == 3
    assert len(await read(stream("g"), event_types=["tool_result", "error"])) == 3


async def test_a_group_whose_consumers_all_have_filters_does_not_fill_the_stream(stream: Make) -> None:
    coordinator = stream("g", max_length=200)
    for _ in range(10):
        await publish(coordinator, 100)
        await read(coordinator, event_types=["error"])


@pytest.mark.parametrize("event_types", [[], "error", ["no such type"]])
async def test_a_filter_that_cannot_be_meant_is_refused(stream: Make, event_types: Any) -> None:
    for coordinator in (stream("g"), stream()):
        with pytest.raises(BadEvent):
            await read(coordinator, event_types=event_types)


async def test_a_cursor_filters_as_well(stream: Make) -> None:
    await stream().publish_error("s", "E", "m")
    await publish(stream(), 3)
    assert [event["type"] for event in await read(stream(), event_types=["ERROR"])] == ["error"]


async def test_events_are_plain_dicts_for_json(stream: Make) -> None:
    await publish(stream(), 1)
    [event] = await read(stream("g"))
    assert json.loads(json.dumps(event)) == event


# ---- until when ----


async def test_no_event_at_all_is_none(stream: Make) -> None:
    coordinator = stream("g")
    await publish(coordinator, 3)
    assert await read(coordinator, 0) == []
    assert len(await read(coordinator)) == 3


@pytest.mark.parametrize("group", ["g", None])
async def test_a_bounded_subscription_waits_for_its_events(
    stream: Make, client: redis.asyncio.Redis, group: str | None
) -> None:
    async def wanted() -> list[int]:
        return [event["n"] async for event in stream(group).subscribe(max_events=2)]

    waiting = asyncio.ensure_future(wanted())
    for number in range(2):
        await until_async(lambda: blocked(client), "the subscription waits")
        assert not waiting.done()
        await stream().publish(custom(n=number))
    assert await waiting == [0, 1]


@pytest.mark.parametrize("group", ["g", None])
async def test_a_bounded_subscription_ends_after_its_timeout(stream: Make, group: str | None) -> None:
    await publish(stream(), 1)
    assert [event["n"] async for event in stream(group).subscribe(timeout_ms=30, max_events=2)] == [0]


# ---- acknowledging ----


async def test_an_event_is_acknowledged_when_the_next_is_asked_for_and_at_the_end(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 3)
    assert len(await read(coordinator, 3)) == 3
    assert await pending(client) == 0


async def test_without_auto_ack_an_event_stays_until_it_is_acknowledged(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 3)
    first, second, third = await read(coordinator, auto_ack=False)
    assert await pending(client) == 3
    assert await coordinator.acknowledge(first, second["_msg_id"]) == 2
    assert await coordinator.acknowledge(first) == 0
    assert await pending(client) == 1
    assert await read(coordinator) == []  # the third is in hand
    await coordinator.close()
    assert numbers(await read(coordinator)) == [third["n"]]


async def test_what_was_fetched_and_not_handed_out_comes_first_the_next_time(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 10)
    assert numbers(await read(coordinator, 1)) == [0]
    await publish(coordinator, 2)
    assert numbers(await read(coordinator)) == [*range(1, 10), 0, 1]
    assert await pending(client) == 0


async def test_own_pending_events_come_first_after_a_restart_under_the_same_name(stream: Make) -> None:
    await publish(stream(), 3)
    assert len(await read(stream("g", "me"), auto_ack=False)) == 3
    await publish(stream(), 1)
    again = await read(stream("g", "me"))
    assert numbers(again) == [0, 1, 2, 0]
    assert [event.attempt for event in again] == [2, 2, 2, 1]


async def test_a_new_subscription_of_the_same_consumer_ends_the_one_before(stream: Make) -> None:
    coordinator = stream("g")
    await publish(coordinator, 2)
    async with aclosing(coordinator.subscribe()) as former:
        assert (await anext(former))["n"] == 0
        assert numbers(await read(coordinator, 1)) == [1]
        with pytest.raises(EventLoopError, match="ended"):
            await anext(former)


async def test_an_entry_that_is_deleted_while_it_is_pending_is_let_go(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    ids = await publish(coordinator, 3)
    await read(coordinator, auto_ack=False)
    await coordinator.close()
    await client.xdel(STREAM, ids[1])
    assert numbers(await read(coordinator)) == [0, 2]
    assert await pending(client) == 0


# ---- trying again ----


async def test_an_event_whose_handler_raises_is_handed_out_again_first(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 3)
    assert (await read_and_fail(coordinator))["n"] == 0
    assert await pending(client) == 3
    again = await read(coordinator)
    assert numbers(again) == [0, 1, 2]
    assert [event.attempt for event in again] == [2, 1, 1]


async def test_after_the_last_attempt_an_event_is_a_dead_letter(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g", max_attempts=3)
    first, _ = await publish(coordinator, 2)
    attempts = [(await read_and_fail(coordinator)).attempt for _ in range(3)]
    assert attempts == [1, 2, 3]
    assert numbers(await read(coordinator)) == [1]
    [letter] = await coordinator.dead_letters()
    assert (letter.msg_id, letter.group, letter.event and letter.event.data) == (first, "g", {"n": 0})
    assert await pending(client) == 0


async def test_a_handler_is_called_again_until_it_returns(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g")
    await publish(coordinator, 2)
    seen: list[tuple[int, int]] = []

    async def handle(event: ReceivedEvent) -> None:
        seen.append((event["n"], event.attempt))
        if event["n"] == 0 and event.attempt < 3:
            raise Broken

    assert await coordinator.consume(handle, max_events=2) == 2
    assert seen == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert await pending(client) == 0
    assert await client.keys("*tries") == []


async def test_a_dead_letter_says_why_and_is_replayed_for_its_audience_only(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator, other = stream("g", max_attempts=1), stream("other")
    await publish(coordinator, 2)

    async def handle(event: ReceivedEvent) -> None:
        if event["n"] == 0:
            raise Broken("no such thing")

    assert await coordinator.consume(handle, max_events=2) == 1
    assert numbers(await read(other)) == [0, 1]
    [letter] = await coordinator.dead_letters()
    assert (letter.reason, letter.attempts) == ("Broken: no such thing", 1)

    assert await coordinator.replay(letter)
    assert await coordinator.replay(letter) is None
    assert await coordinator.dead_letters() == []
    assert numbers(await read(other)) == []
    assert numbers(await read(stream())) == [0, 1]
    [again] = await read(coordinator)
    assert (again["n"], again.attempt) == (0, 1)
    assert letter.event
    assert again.event == letter.event


async def test_dead_letters_are_listed_page_by_page(stream: Make) -> None:
    coordinator = stream("g", max_attempts=1)
    await publish(coordinator, 5)

    async def handle(event: ReceivedEvent) -> None:
        raise Broken

    await coordinator.consume(handle, max_events=5)
    page = await coordinator.dead_letters(limit=3)
    rest = await coordinator.dead_letters(after=page[-1].letter_id)
    assert [letter.event and letter.event.data["n"] for letter in [*page, *rest]] == list(range(5))


# ---- in the order of their session ----


async def test_a_sessions_events_are_in_one_pair_of_hands_at_a_time_and_in_order(stream: Make) -> None:
    publisher = stream()
    sessions = ["a", "b", "c", "d"]
    await publisher.publish_many(custom(session, n=number) for number in range(50) for session in sessions)
    seen: dict[str, list[int]] = {session: [] for session in sessions}
    busy: set[str] = set()

    async def handle(event: ReceivedEvent) -> None:
        session = event["session_id"]
        assert session not in busy
        busy.add(session)
        await asyncio.sleep(0)
        seen[session].append(event["n"])
        busy.remove(session)

    consumers = [stream("g") for _ in range(3)]
    tasks = [asyncio.ensure_future(consumer.consume(handle)) for consumer in consumers]
    await until_async(lambda: sum(map(len, seen.values())) == 200, "all are handled")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert seen == {session: list(range(50)) for session in sessions}


async def test_a_session_moves_on_when_its_consumer_has_done_all_of_it(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    one, other = stream("g"), stream("g")
    await one.publish(custom("s", n=0))
    assert numbers(await read(one)) == [0]
    await one.publish(custom("s", n=1))
    assert numbers(await read(other)) == [1]
    assert await client.keys("*owners") + await client.keys("*held") == []


async def test_a_session_waits_for_its_consumer_while_others_read_on(stream: Make) -> None:
    one, other = stream("g"), stream("g")
    await one.publish(custom("s", n=0))
    [held] = await read(one, auto_ack=False)
    await one.publish_many([custom("s", n=1), custom("t", n=2)])
    assert numbers(await read(other)) == [2]
    await one.acknowledge(held)
    assert numbers(await read(one)) == [1]
