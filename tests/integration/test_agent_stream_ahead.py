"""What an agent stream's consumer fetches while it handles, against a real server: nobody loses by it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import redis.asyncio

from core.events import AgentCoordinator
from core.events.audience import TAKEN_AT_ONCE
from tests.integration.agent_stream import Make, custom, numbers, pending, publish, read
from tests.waiting import until_async

#: So many are more than one fetch, and the one ahead of it.
MANY = 3 * TAKEN_AT_ONCE


async def test_the_next_events_are_fetched_while_the_first_is_handled(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, MANY)
    async for _ in coordinator.subscribe():
        await until_async(lambda: _holds(client, 2 * TAKEN_AT_ONCE), "the next events are fetched")
        break
    assert numbers(await read(coordinator)) == list(range(MANY))
    assert await pending(client) == 0


async def _holds(client: redis.asyncio.Redis, count: int) -> bool:
    return await pending(client) == count


async def test_never_more_than_twice_what_one_fetch_takes_is_held(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g")
    await publish(coordinator, 2 * MANY)
    most = 0
    async for event in coordinator.subscribe(max_events=2 * MANY):
        if event["n"] % 50 == 0:
            most = max(most, await pending(client))
    assert TAKEN_AT_ONCE < most <= 3 * TAKEN_AT_ONCE  # what is acknowledged with the next fetch is pending as well


async def test_who_leaves_gives_up_what_was_fetched_ahead_at_once(stream: Make, client: redis.asyncio.Redis) -> None:
    leaver, peer = stream("g"), stream("g")
    await leaver.publish_many(custom(str(number % 7), n=number) for number in range(MANY))
    async with aclosing(leaver.subscribe()) as events:
        assert [(await anext(events))["n"] for _ in range(10)] == list(range(10))
    assert numbers(await read(peer)) == list(range(9, MANY))  # the last one was not handled
    assert await pending(client) == 0


async def test_a_consumer_that_is_cancelled_gives_up_what_was_fetched_ahead(stream: Make) -> None:
    leaver, peer = stream("g"), stream("g")
    await publish(leaver, MANY)
    for _ in range(2):
        began = asyncio.Event()
        consuming = asyncio.ensure_future(leaver.consume(lambda _, began=began: _begin(began)))  # type: ignore[misc]
        await began.wait()
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    assert sorted(numbers(await read(peer))) == list(range(MANY))


async def _begin(began: asyncio.Event) -> None:
    began.set()
    await asyncio.Event().wait()


async def test_a_consumer_with_much_to_read_still_takes_over_what_others_leave(stream: Make) -> None:
    leaver, busy = stream("g"), stream("g", silent_after_ms=90)
    await publish(leaver, 5)
    assert numbers(await read(leaver, auto_ack=False)) == list(range(5))
    await leaver.publish_many(custom(n=number) for number in range(5, 2 * MANY))
    seen: list[int] = []
    async for event in busy.subscribe(max_events=2 * MANY):
        if not seen:
            await leaver.close()
        seen.append(event["n"])
        await asyncio.sleep(0.001)
    assert sorted(seen) == list(range(2 * MANY))
    assert seen.index(4) < len(seen) - 1


async def test_what_is_claimed_while_a_subscription_goes_on_is_handed_out_once(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 2 * MANY)
    seen: list[int] = []
    done = asyncio.Event()

    async def claim() -> None:
        while not done.is_set():
            claimed = await coordinator.claim_abandoned_messages(min_idle_ms=0)
            await coordinator.acknowledge(*claimed)
            seen.extend(numbers(claimed))

    claiming = asyncio.ensure_future(claim())
    await _read_slowly(coordinator, seen)
    done.set()
    await claiming
    assert sorted(seen) == list(range(2 * MANY))
    assert await pending(client) == 0


async def _read_slowly(coordinator: AgentCoordinator, seen: list[int]) -> None:
    """Until there is nothing more."""
    async for event in coordinator.subscribe(timeout_ms=0, max_events=2 * MANY):
        seen.append(event["n"])
        await asyncio.sleep(0)
