"""The agent stream against a real server: what goes in comes out, and how much of it is kept."""

from __future__ import annotations

import asyncio
import math
import re
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import pytest
import redis.asyncio

from core.agent_event import AgentEvent
from core.config.settings import RedisConfig
from core.errors import BadEvent, ConfigError, NoGroup, ServerRefused, StreamFull, TransportDown
from core.event_types import EventType
from core.events import AgentCoordinator
from tests.integration.agent_stream import STREAM, Make, blocked, custom, read
from tests.redis_server import RedisServer
from tests.waiting import until_async


async def fill(coordinator: AgentCoordinator) -> None:
    for _ in range(20):
        await coordinator.publish_many(custom() for _ in range(100))


async def entry(client: redis.asyncio.Redis) -> dict[Any, Any]:
    """The fields of the only entry."""
    entries = await client.xrange(STREAM)
    assert entries
    [(_, fields)] = entries
    assert fields
    return fields


# ---- what the methods publish ----

PUBLISHED: dict[str, dict[str, Any]] = {
    "handoff_ready": {"from_agent": "research", "to_agent": "analysis", "session_id": "s", "context": {"a": [1, None]}},
    "tool_result": {"tool_name": "search", "session_id": "s", "result": {"hits": 3}, "execution_time_ms": 1.5},
    "state_changed": {"session_id": "s", "changes": {"plan": "b"}},
    "agent_started": {"agent_name": "writer", "session_id": "s", "input_summary": "a text"},
    "agent_completed": {
        "agent_name": "writer", "session_id": "s", "output_summary": "done", "duration_ms": 12.5, "tokens_used": 40,
    },
    "error": {"session_id": "s", "error_type": "ValueError", "error_message": "no", "agent_name": "writer"},
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
async def test_each_method_publishes_its_event_with_the_time_and_returns_its_id(stream: Make, kind: str) -> None:
    coordinator = stream("g")
    before = datetime.now(UTC).timestamp()

    msg_id = await getattr(coordinator, f"publish_{kind}")(**PUBLISHED[kind])

    [event] = await read(coordinator)
    timestamp = event.pop("timestamp")
    assert before <= timestamp <= datetime.now(UTC).timestamp()
    assert event == {**PUBLISHED[kind], "type": kind, "_msg_id": msg_id}
    assert type(event["type"]) is str
    assert event.event.session_id == "s"
    assert event.event.timestamp.tzinfo is UTC


async def test_an_error_may_belong_to_no_agent(stream: Make) -> None:
    coordinator = stream("g")
    await coordinator.publish_error("s", "E", "m")
    [event] = await read(coordinator)
    assert event["agent_name"] is None


#: Texts that look like other types, and values that look like texts.
TELLTALE = [
    "true", "null", "12345678901234567890", "1e5", "1.0", "", "{}", '"x"', " 1", "NaN", True, False, None, 1, 1.0, 0,
    -0.5, 2**64 - 1, -(2**63), [], {}, [None, {"a": "1"}], "ü \U0001f600 \u2028",
]  # fmt: skip


async def test_nothing_changes_its_type_on_the_way(stream: Make) -> None:
    coordinator = stream("g")
    for value in TELLTALE:
        await coordinator.publish_tool_result("tool", "s", value, 1.0)
    back = [event["result"] for event in await read(coordinator)]
    assert [(type(value), value) for value in back] == [(type(value), value) for value in TELLTALE]


async def test_texts_in_every_other_field_stay_texts(stream: Make) -> None:
    coordinator = stream("g")
    await coordinator.publish_agent_started("true", "12345678901234567890", "null")
    [event] = await read(coordinator)
    assert (event["agent_name"], event["session_id"], event["input_summary"]) == (
        "true",
        "12345678901234567890",
        "null",
    )


async def test_none_and_missing_differ(stream: Make) -> None:
    coordinator = stream("g")
    await coordinator.publish_many([custom(result=None), custom()])
    with_none, without = await read(coordinator)
    assert with_none["result"] is None
    assert "result" not in without


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((1, 2), "tuple"),
        ({1}, "set"),
        (datetime.now(UTC), "datetime"),
        (math.nan, "nan"),
        (b"x", "bytes"),
        ({1: 2}, "key"),
    ],
)
async def test_what_is_no_json_is_refused_in_words_before_anything_is_sent(
    stream: Make, client: redis.asyncio.Redis, value: Any, words: str
) -> None:
    coordinator = stream()
    with pytest.raises(BadEvent, match=words):
        await coordinator.publish_tool_result("t", "s", value, 1.0)
    with pytest.raises(BadEvent, match=words):
        await coordinator.publish_many([custom(n=1), custom(value=value)])
    assert await client.exists(STREAM) == 0


async def test_an_event_that_is_too_large_is_refused(stream: Make, client: redis.asyncio.Redis) -> None:
    with pytest.raises(BadEvent, match="limit"):
        await stream().publish(custom(text="x" * 300_000))
    assert await client.exists(STREAM) == 0


async def test_the_whole_envelope_arrives(stream: Make) -> None:
    sent = AgentEvent(
        EventType.TASK_COMPLETED, "s", "node", "run", {"type": "mine", "_msg_id": 1}, correlation_id="c", sequence=7,
        agent_id="w", task_id="t", root_id="r", session_id="thread", causation_id="x", traceparent="00-1-2-01",
    )  # fmt: skip
    await stream().publish(sent)
    [event] = await read(stream())
    assert event.event == sent
    assert event["type"] == "task_completed"


async def test_many_are_published_in_their_order_and_each_has_an_id(stream: Make) -> None:
    coordinator = stream("g")
    ids = await coordinator.publish_many(custom(n=number) for number in range(1200))
    events = await read(coordinator)
    assert [event["n"] for event in events] == list(range(1200))
    assert [event["_msg_id"] for event in events] == ids
    assert await coordinator.publish_many([]) == []


# ---- opening and closing ----


async def test_initialize_makes_the_group_from_the_first_entry_and_can_be_called_again(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    await stream().publish(custom(n=1))
    first, second = stream("g"), stream("g")
    for coordinator in (first, first, second):
        await coordinator.initialize()
    [group] = await client.xinfo_groups(STREAM)
    assert (group["name"], group["last-delivered-id"]) == (b"g", b"0-0")
    assert [event["n"] for event in await read(first)] == [1]


async def test_a_closed_coordinator_opens_again_with_the_next_call(stream: Make) -> None:
    coordinator = stream("g")
    await coordinator.publish(custom(n=1))
    await coordinator.close()
    await coordinator.close()
    assert [event["n"] for event in await read(coordinator)] == [1]


async def test_a_consumer_gets_a_name_when_it_has_a_group(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g")
    await coordinator.publish(custom())
    async for _ in coordinator.subscribe():
        [consumer] = await client.xinfo_consumers(STREAM, "g")
        break
    assert re.fullmatch(rb"consumer_[0-9a-f]{8}", consumer["name"])


async def test_the_configured_server_is_meant_unless_another_is_named(
    redis_config: RedisConfig, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("REDIS_PASSWORD", redis_server.password)
    async with AgentCoordinator() as coordinator:
        await coordinator.publish(custom(n=1))
        assert [event["n"] for event in await read(coordinator)] == [1]
    with pytest.raises(TransportDown, match="localhost:1/"):
        await AgentCoordinator("redis://localhost:1").initialize()


@pytest.mark.parametrize(
    "fields", [{"max_length": 0}, {"max_attempts": 0}, {"silent_after_ms": 0}, {"group": ""}, {"group": "a[b"}]
)
async def test_an_option_that_cannot_work_is_refused(stream: Make, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await stream(**fields).initialize()


# ---- without a group ----


async def test_without_a_group_a_cursor_reads_all_and_resumes_after_an_id(stream: Make) -> None:
    coordinator = stream()
    ids = await coordinator.publish_many(custom(n=number) for number in range(5))
    assert [event["n"] for event in await read(coordinator)] == [0, 1, 2, 3, 4]
    assert [event["n"] for event in await read(coordinator, after=ids[2])] == [3, 4]
    assert [event["n"] for event in await read(coordinator, most=2, after="0")] == [0, 1]


async def test_a_cursor_after_the_end_gets_what_comes(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream()
    await coordinator.publish(custom(n=0))
    events = coordinator.subscribe(after="$", max_events=1)
    waiting = asyncio.ensure_future(anext(events))
    await until_async(lambda: blocked(client), "the cursor waits")
    await coordinator.publish(custom(n=1))
    assert (await waiting)["n"] == 1
    await events.aclose()


@pytest.mark.parametrize("call", ["claim_abandoned_messages", "dead_letters", "acknowledge"])
async def test_what_takes_a_group_says_so(stream: Make, call: str) -> None:
    with pytest.raises(NoGroup, match="consumer_group"):
        await getattr(stream(), call)()
    with pytest.raises(ValueError, match="group"):
        await getattr(stream(), call)()


async def test_a_position_is_an_id_and_not_for_groups(stream: Make) -> None:
    with pytest.raises(ConfigError, match="after"):
        await read(stream(), after="yesterday")
    with pytest.raises(NoGroup, match="position"):
        await read(stream("g"), after="0")


# ---- care ----


async def test_a_stream_that_is_not_there_is_empty(stream: Make) -> None:
    assert await stream().get_stream_info() == {"length": 0, "groups": []}


async def test_the_stream_tells_its_length_its_ends_and_its_groups(stream: Make) -> None:
    coordinator = stream("g")
    first, _, last = await coordinator.publish_many(custom(n=number) for number in range(3))
    info = await coordinator.get_stream_info()
    assert info["length"] == 3
    assert [(entry[0], entry[1]["n"]) for entry in (info["first_entry"], info["last_entry"])] == [(first, 0), (last, 2)]
    [group] = info["groups"]
    assert (group["name"], group["pending"], group["last-delivered-id"]) == ("g", 0, "0-0")


async def test_no_other_error_is_taken_for_an_empty_stream(
    stream: Make, client: redis.asyncio.Redis, redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    await client.set(STREAM, "another program's")
    with pytest.raises(ServerRefused, match="type"):
        await stream().get_stream_info()
    wrong = AgentCoordinator(redis_config.model_copy(update={"password": "wrong-password"}))
    with pytest.raises(ConfigError, match="REDIS_PASSWORD"):
        await wrong.get_stream_info()


async def test_the_stream_is_bounded_by_itself(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g", max_length=1000)
    for _ in range(10):
        await coordinator.publish_many(custom(n=number) for number in range(500))
        await read(coordinator)
    assert 500 <= await client.xlen(STREAM) <= 1000 + 128


async def test_however_much_passes_through_a_bounded_stream_memory_stays_as_it_is(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    coordinator = stream("g", max_length=200)

    async def pass_through(rounds: int) -> None:
        for _ in range(rounds):
            await coordinator.publish_many(custom(str(number % 50), n=number) for number in range(100))
            async for _event in coordinator.subscribe(max_events=100):
                pass

    await pass_through(5)
    tracemalloc.start()
    try:
        await pass_through(2)
        before, _ = tracemalloc.get_traced_memory()
        await pass_through(10)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000
    assert await client.xlen(STREAM) <= 200 + 128
    assert {key async for key in client.scan_iter()} == {STREAM.encode()}


async def test_what_an_audience_has_yet_to_read_stays_and_the_publisher_is_told(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    slow, fast = stream("slow", max_length=1000), stream("fast")
    await slow.initialize()
    await slow.publish_many(custom(n=number) for number in range(1000))
    await read(fast)
    with pytest.raises(StreamFull, match="'slow'"):
        await fill(slow)
    assert 1000 <= await client.xlen(STREAM) <= 1000 + 128
    kept = await read(slow)
    assert kept[0]["n"] == 0
    await slow.publish(custom(n=0))  # there is room again


async def test_pending_events_stay_too(stream: Make) -> None:
    coordinator = stream("g", max_length=200)
    await coordinator.publish_many(custom(n=number) for number in range(10))
    held = await read(coordinator, auto_ack=False)
    with pytest.raises(StreamFull):
        await fill(coordinator)
    assert await coordinator.acknowledge(*held) == 10


async def test_unread_events_go_when_that_is_asked_for(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g", max_length=1000, drop_unread=True)
    await coordinator.publish_many(custom(n=number) for number in range(3000))
    assert await client.xlen(STREAM) <= 1000 + 128
    assert (await read(coordinator))[-1]["n"] == 2999


@pytest.mark.parametrize("approximate", [True, False])
async def test_trimming_stops_before_what_an_audience_has_yet_to_read(
    stream: Make, client: redis.asyncio.Redis, approximate: bool
) -> None:
    reader, idle = stream("reader"), stream("idle")
    await reader.publish_many(custom(n=number) for number in range(500))
    await read(reader)
    await idle.initialize()
    assert await reader.trim_stream(0, approximate) == 0
    await read(idle, most=300)
    removed = await reader.trim_stream(0, approximate)
    assert removed == 300 or (approximate and removed < 300)
    assert await client.xlen(STREAM) == 500 - removed
    assert len(await read(idle)) == 200


async def test_trimming_leaves_as_many_as_were_asked_for(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream()
    await coordinator.publish_many(custom(n=number) for number in range(500))
    assert await coordinator.trim_stream(120, approximate=False) == 380
    assert await client.xlen(STREAM) == 120
    assert await coordinator.trim_stream(500) == 0


async def test_trimming_passes_what_is_unread_when_that_is_asked_for(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g")
    await coordinator.publish_many(custom(n=number) for number in range(500))
    assert await coordinator.trim_stream(1, approximate=False, drop_unread=True) == 499
    assert [event["n"] for event in await read(coordinator)] == [499]


# ---- who may write ----


async def test_an_entry_that_was_not_signed_reaches_nobody(stream: Make, client: redis.asyncio.Redis) -> None:
    coordinator = stream("g")
    await coordinator.publish(custom(n=1))
    fields = await entry(client)
    forgeries: list[dict[Any, Any]] = [
        {**fields, b"event": fields[b"event"].replace(b'"n":1', b'"n":2')},
        {**fields, b"session": b"another"},
        {**fields, b"sig": b"00000000:" + b"0" * 64},
        {b"event": fields[b"event"]},
        {b"type": b"tool_result"},
    ]
    for forged in forgeries:
        await client.xadd(STREAM, forged)
    assert [event["n"] for event in await read(coordinator)] == [1]
    assert [event["n"] for event in await read(stream())] == [1]
    letters = await coordinator.dead_letters()
    assert [letter.event for letter in letters] == [None] * 5
    assert [letter.reason.partition(":")[0] for letter in letters] == [
        "BadSignature", "BadSignature", "UnknownKey", "MalformedMessage", "MalformedMessage",
    ]  # fmt: skip


async def test_streams_with_another_secret_or_name_do_not_believe_each_other(
    stream: Make, client: redis.asyncio.Redis
) -> None:
    await stream(secret="one secret of ours").publish(custom(n=1))
    assert await read(stream(secret="another secret of ours")) == []
    await client.xadd("elsewhere", await entry(client))
    assert await read(stream(stream_name="elsewhere", secret="one secret of ours")) == []
    assert len(await read(stream(secret="one secret of ours"))) == 1


async def test_a_stream_that_has_no_secret_says_how_it_gets_one() -> None:
    with pytest.raises(ConfigError, match="A2A_TOKEN_SECRET"):
        await AgentCoordinator("redis://redis.example:6379").initialize()


async def test_the_key_of_one_agent_is_not_enough(stream: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2A_AGENT_KEY", "00000000:" + "0" * 64)
    with pytest.raises(ConfigError, match="secret="):
        await stream().initialize()


async def test_events_signed_before_a_rotation_are_still_believed(
    stream: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A2A_TOKEN_SECRET", "the secret before")
    await stream().publish(custom(n=1))
    monkeypatch.setenv("A2A_PREVIOUS_SECRET", "the secret before")
    monkeypatch.setenv("A2A_TOKEN_SECRET", "the secret after")
    assert [event["n"] for event in await read(stream())] == [1]
