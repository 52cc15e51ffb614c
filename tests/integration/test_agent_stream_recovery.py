"""What becomes of an audience's events when consumers, groups, connections or everything is lost: a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import aclosing

import pytest
import redis.asyncio

from core.config.settings import RedisConfig
from core.errors import ServerRefused
from core.events import AgentCoordinator
from core.events.stream_entry import ReceivedEvent
from core.operations.acl import rules_of_stream
from tests.integration.agent_stream import STREAM, Make, blocked, custom, numbers, pending, publish, read
from tests.redis_server import RedisServer
from tests.waiting import until, until_async

# ---- consumers that are gone ----


async def test_what_was_claimed_can_be_acknowledged(stream: Make, client: redis.asyncio.Redis) -> None:
    await publish(stream(), 3)
    await client.xgroup_create(STREAM, "g", "0")
    await client.xreadgroup("g", "gone", {STREAM: ">"})  # another program, which never said that it lives
    heir = stream("g")
    claimed = await heir.claim_abandoned_messages(min_idle_ms=0)
    assert numbers(claimed) == [0, 1, 2]
    assert await heir.claim_abandoned_messages(min_idle_ms=0) == []
    assert await heir.acknowledge(*claimed) == 3
    assert await pending(client) == 0


async def test_nothing_is_claimed_that_has_not_been_idle_for_long_enough(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    await publish(stream(), 3)
    await client.xgroup_create(STREAM, "g", "0")
    await client.xreadgroup("g", "slow", {STREAM: ">"})
    assert await stream("g").claim_abandoned_messages() == []


async def test_any_number_of_abandoned_events_is_claimed(stream: Make, client: redis.asyncio.Redis) -> None:
    await publish(stream(), 2500)
    await client.xgroup_create(STREAM, "g", "0")
    await client.xreadgroup("g", "gone", {STREAM: ">"}, count=2500)
    heir, got = stream("g"), []
    while claimed := await heir.claim_abandoned_messages(min_idle_ms=0):
        assert len(claimed) <= 1000
        got += numbers(claimed)
    assert got == list(range(2500))


async def test_who_lives_is_not_robbed_however_long_its_handler_takes(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator, peer = stream("g", silent_after_ms=400), stream("g", silent_after_ms=400)
    await publish(coordinator, 1)
    async for _ in coordinator.subscribe(max_events=1):
        idle = await until_async(lambda: _idle_longer_than(client, 1500), "the handler takes long")
        assert idle
        assert await peer.claim_abandoned_messages(min_idle_ms=0) == []
        assert await read(peer) == []
    assert await pending(client) == 0


async def _idle_longer_than(client: redis.asyncio.Redis, ms: int) -> bool:
    [entry] = await client.xpending_range(STREAM, "g", "-", "+", 1)
    return int(entry["time_since_delivered"]) > ms


async def test_who_subscribes_takes_over_what_a_closed_consumer_has_left(stream: Make) -> None:
    await publish(stream(), 5)
    leaver = stream("g")
    assert len(await read(leaver, auto_ack=False)) == 5
    peer = stream("g")
    assert await read(peer) == []
    await leaver.close()
    assert numbers(await read(stream("g"))) == list(range(5))


async def test_a_consumer_that_wakes_up_hands_out_nothing_that_others_have_done_meanwhile(stream: Make) -> None:
    await publish(stream(), 20)
    sleeper = stream("g", silent_after_ms=300)
    done_by_peer: list[int] = []

    async def work(peer: AgentCoordinator) -> None:
        async with peer:
            async for event in peer.subscribe(max_events=20):
                done_by_peer.append(event["n"])

    peer = threading.Thread(target=lambda: asyncio.run(work(stream("g", silent_after_ms=300))))
    seen = []
    async for event in sleeper.subscribe(timeout_ms=0, max_events=20):
        seen.append(event["n"])
        if event["n"] == 4:
            peer.start()
            until(lambda: len(done_by_peer) >= 15, "the peer has taken over")  # the whole loop stands still
    peer.join()
    assert seen == [0, 1, 2, 3, 4]
    assert sorted({*seen, *done_by_peer}) == list(range(20))


def consumer(server: RedisServer, *arguments: object) -> subprocess.Popen[str]:
    """A consumer in a process of its own."""
    environ = {**os.environ, "REDIS_URL": server.url, "REDIS_PASSWORD": server.password, "REDIS_MODE": "external"}
    command = [sys.executable, "-m", "tests.integration.stream_consumer", *map(str, arguments)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


async def test_an_event_that_kills_its_consumers_is_a_dead_letter_in_the_end(
    stream: Make, client: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    await publish(stream(), 3)
    for _ in range(2):
        with consumer(redis_server, "g", "victim", 10_000, "deadly") as process:
            assert process.stdout
            assert process.stdout.read() == "0\n"
    survivor = stream("g", "victim", max_attempts=2)
    assert numbers(await read(survivor)) == [1, 2]
    [letter] = await survivor.dead_letters()
    assert letter.event
    assert (letter.event.data["n"], letter.attempts) == (0, 2)


async def test_what_a_killed_consumer_had_only_fetched_is_tried_however_few_attempts_there_are(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    await publish(stream(), 3)
    await client.xgroup_create(STREAM, "g", "0")
    await client.xreadgroup("g", "gone", {STREAM: ">"})
    peer = stream("g", max_attempts=1)
    assert numbers(await peer.claim_abandoned_messages(min_idle_ms=0)) == [0, 1, 2]
    assert await peer.dead_letters() == []


async def test_the_events_of_a_consumer_that_was_killed_go_to_a_peer(
    stream: Make, client: redis.asyncio.Redis, redis_server: RedisServer
) -> None:
    await publish(stream(), 3)
    with consumer(redis_server, "g", "victim", 500, "deadly") as process:
        assert process.stdout
        assert process.stdout.read() == "0\n"
    peer = stream("g", silent_after_ms=500)
    got = [event["n"] async for event in peer.subscribe(max_events=3)]
    assert got == [0, 1, 2]
    assert await pending(client) == 0


# ---- what is lost ----


@pytest.mark.parametrize("lost", ["group", "stream", "everything"])
async def test_a_subscription_outlasts_the_loss_of_its_group(
    stream: Make, client: redis.asyncio.Redis, lost: str
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 2)
    async with aclosing(coordinator.subscribe()) as events:
        assert [(await anext(events))["n"] for _ in range(2)] == [0, 1]
        following = asyncio.ensure_future(anext(events))
        await until_async(lambda: blocked(client), "the subscription waits")
        if lost == "group":
            await client.xgroup_destroy(STREAM, "g")
        elif lost == "stream":
            await client.delete(STREAM)
        else:
            await client.flushall()
        await stream().publish(custom(n=2))
        got = [(await following)["n"]]
        while got[-1] != 2:  # a new group begins with what there still is
            got.append((await anext(events))["n"])
    assert got in ([2], [0, 1, 2])


async def test_a_subscription_outlasts_broken_connections(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g")
    await publish(coordinator, 1)
    async with aclosing(coordinator.subscribe()) as events:
        assert (await anext(events))["n"] == 0
        following = asyncio.ensure_future(anext(events))
        await until_async(lambda: blocked(client), "the subscription waits")
        await client.client_kill_filter(_type="normal", skipme=True)
        await stream().publish(custom(n=1))
        assert (await following)["n"] == 1


async def test_scripts_that_are_flushed_are_sent_again(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g")
    await publish(coordinator, 1)
    assert numbers(await read(coordinator)) == [0]
    await client.script_flush()
    await publish(coordinator, 1)
    assert numbers(await read(coordinator)) == [0]


async def test_a_handler_that_fails_while_redis_is_away_is_called_again(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 2)
    attempts: list[tuple[int, int]] = []

    async def handle(event: ReceivedEvent) -> None:
        attempts.append((event["n"], event.attempt))
        if event.attempt == 1:
            await client.client_kill_filter(_type="normal", skipme=True)
            raise ConnectionError

    assert await coordinator.consume(handle, max_events=2) == 2
    assert attempts == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert await pending(client) == 0


async def test_a_consumer_that_is_cancelled_in_its_handler_leaves_the_event_for_the_next(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g")
    await publish(coordinator, 1)
    began = asyncio.Event()

    async def handle(event: ReceivedEvent) -> None:
        began.set()
        await asyncio.Event().wait()

    consuming = asyncio.ensure_future(coordinator.consume(handle))
    await began.wait()
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    assert numbers(await read(stream("g"))) == [0]


async def streamer(client: redis.asyncio.Redis, config: RedisConfig, stream_name: str) -> RedisConfig:
    """Makes a user for the programs of a stream, and returns how they enter."""
    command = f"ACL SETUSER streamer reset on >pass-of-streamer {' '.join(rules_of_stream(stream_name))}"
    await client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    return config.model_copy(update={"username": "streamer", "password": "pass-of-streamer"})


async def test_a_redis_user_with_the_rules_of_a_stream_can_do_everything(
    stream: Make, client: redis.asyncio.Redis, redis_config: RedisConfig
) -> None:
    await client.execute_command("ACL", "LOG", "RESET")  # type: ignore[no-untyped-call]
    user = await streamer(client, redis_config, STREAM)
    coordinator = AgentCoordinator(user, consumer_group="g", max_length=1000, max_attempts=1)
    await coordinator.publish_many(custom("s", n=number) for number in range(1100))

    async def handle(event: ReceivedEvent) -> None:
        if event["n"] == 1:
            raise ValueError

    assert await coordinator.consume(handle, max_events=500) == 499
    [letter] = await coordinator.dead_letters()
    assert await coordinator.replay(letter)
    assert len(await coordinator.claim_abandoned_messages(min_idle_ms=0)) >= 1
    assert await coordinator.trim_stream(900, approximate=False) == 201
    assert (await coordinator.get_stream_info())["length"] == 900
    async with AgentCoordinator(user) as cursor:
        assert await read(cursor, after=await cursor.last_id()) == []
    async with AgentCoordinator(user, consumer_group="g") as leaver:
        await coordinator.publish_many(custom(session, n=0) for session in "st")
        assert len(await read(leaver, auto_ack=False))
        await coordinator.publish(custom("s", n=1))
        await read(coordinator, auto_ack=False)  # of a session of the other
    assert len(await coordinator.claim_abandoned_messages(min_idle_ms=0))
    await coordinator.close()
    assert await client.acl_log() == []
    await client.acl_deluser("streamer")


async def test_that_user_reaches_nothing_else(client: redis.asyncio.Redis, redis_config: RedisConfig) -> None:
    user = await streamer(client, redis_config, "another")
    with pytest.raises(ServerRefused, match="may not do this"):
        await AgentCoordinator(user, consumer_group="g").initialize()
    await client.acl_deluser("streamer")
