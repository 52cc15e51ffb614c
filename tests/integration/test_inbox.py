"""What an agent takes from its inbox, what it refuses and why, and that it goes on after every one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from msgspec import structs

from coordinator.agent import CoordinatorAgent
from core.a2a_messaging import A2AMessage
from core.config.settings import A2AConfig, AgentConfig, RedisConfig
from core.redis_backend.clock import ServerClock
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_client import Wire
from core.roles import Action, Address, Role
from core.runtime.inbox import Inbox
from core.signing import KeyRing, Signed
from distributor.agent import DistributorAgent
from tests.builders import CLIENT, COORDINATOR, DISTRIBUTOR, SECRET, WORKER, a_task
from tests.integration.speaker import Speaker
from tests.waiting import until_async

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands

KEYS = CoordinatorKeys("coordinator-1")
CELL = CellKeys("distributor-1")
FAST = AgentConfig(heartbeat_s=0.1, failure_timeout_s=1.0, lease_s=1.0, message_limit_bytes=64 * 1024)
A2A = A2AConfig(agent_id="coordinator-1", token_secret=SECRET.decode())
FORGED = Address(Role.CLIENT, "client-2")


Start = Callable[[], Any]


@pytest.fixture
async def start(redis_config: RedisConfig) -> AsyncIterator[Start]:
    """Starts coordinators, one after the other."""
    agents: list[CoordinatorAgent] = []

    async def started() -> CoordinatorAgent:
        agent = CoordinatorAgent("coordinator-1", redis_config, A2A, FAST)
        await agent.initialize.aio()
        agents.append(agent)
        return agent

    yield started
    for agent in agents:
        await agent.close.aio()


@pytest.fixture
def friend(client: Redis) -> Speaker:
    """A client that the coordinator understands."""
    return Speaker(client, (COORDINATOR, CLIENT), COORDINATOR, KEYS.inbox)


async def known(client: Redis) -> set[str]:
    return {task_id.decode() for task_id in await client.hkeys(KEYS.tasks)}


async def quarantined(client: Redis) -> list[str]:
    """Why messages were put aside, in order."""
    return [entry[b"reason"].decode() for _, entry in await client.xrange(KEYS.agent.quarantine)]


async def goes_on(client: Redis, friend: Speaker) -> None:
    """The agent has dealt with all before, and still takes a good message."""
    await friend.submit("afterwards")

    async def done() -> bool:
        return "afterwards" in await known(client) and await client.xlen(KEYS.inbox) == 0

    await until_async(done, "the next message is taken and the inbox is empty")


# ---- refused, with the reason ----


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("bad_signature", lambda s: replace(s, body=s.body.replace(b"bad", b"BAD"))),
        ("bad_signature", lambda s: replace(s, sender=FORGED)),
        ("bad_signature", lambda s: replace(s, signature=b"0" * 64)),
        ("bad_signature", lambda s: replace(s, signature="é".encode())),
        ("unknown_key", lambda s: replace(s, key_id="00000000")),
    ],
    ids=["body changed", "sender changed", "signature made up", "signature no hex", "key id changed"],
)
async def test_a_forged_message_is_put_aside(
    start: Start, client: Redis, friend: Speaker, reason: str, spoil: Callable[[Signed], Signed]
) -> None:
    await start()
    tasks = [orjson.loads(a_task("bad").to_json())]
    await friend.post(spoil(await friend.signed(Action.SUBMIT_TASK, tasks=tasks)))

    await goes_on(client, friend)

    assert await quarantined(client) == [reason]
    assert await client.hget(KEYS.header, f"rejected:{reason}") == b"1"
    assert "bad" not in await known(client)


BAD_BODIES: dict[str, bytes] = {
    "no JSON": b"\xff\xfe",
    "not a number": b'{"payload": NaN}',
    "no object": b"[]",
    "no envelope": b'{"type": "request"}',
    "nested too deep": b"[" * 5000 + b"]" * 5000,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_signed_body_that_is_no_message_is_put_aside_as_malformed(
    start: Start, client: Redis, friend: Speaker, body: bytes
) -> None:
    await start()
    await friend.say(Action.SUBMIT_TASK, body=body)

    await goes_on(client, friend)

    assert await quarantined(client) == ["malformed"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tasks": {}},
        {"tasks": "t"},
        {"tasks": 5},
        {"version": "v2"},
        {"version": "v10"},
        {"number": -1},
    ],
    ids=str,
)
async def test_a_signed_message_of_the_wrong_shape_is_put_aside_as_malformed(
    start: Start, client: Redis, friend: Speaker, fields: dict[str, Any]
) -> None:
    await start()
    message = orjson.loads((await friend.signed(Action.SUBMIT_TASK, tasks=[])).body)
    for name, value in fields.items():
        part = message["payload"] if name == "tasks" else message["metadata"]
        part["sequence_number" if name == "number" else name] = value
    await friend.say(Action.SUBMIT_TASK, body=orjson.dumps(message))

    await goes_on(client, friend)

    assert await quarantined(client) == ["malformed"]


@pytest.mark.parametrize(
    "entry",
    [{"hello": "world"}, {"from": "client:client-1"}, {"from": "x", "kid": "y", "sig": "z", "body": "b"}],
    ids=["none of its fields", "too few fields", "nobody's address"],
)
async def test_an_entry_that_is_no_signed_message_is_put_aside_as_malformed(
    start: Start, client: Redis, friend: Speaker, entry: dict[str, str]
) -> None:
    await start()
    await client.xadd(KEYS.inbox, entry)

    await goes_on(client, friend)

    assert await quarantined(client) == ["malformed"]


async def test_a_message_over_the_limit_is_put_aside_unread_and_only_its_beginning_kept(
    start: Start, client: Redis, friend: Speaker
) -> None:
    await start()
    await friend.say(Action.SUBMIT_TASK, body=b"x" * 70_000)

    await goes_on(client, friend)

    [(_, entry)] = await client.xrange(KEYS.agent.quarantine)
    assert entry[b"reason"] == b"too_large"
    assert entry[b"body"] == b"x" * 4096
    assert entry[b"from"] == b"client:client-1"


@pytest.mark.parametrize("action", [Action.TASK_RESULT, Action.ASSIGN_TASK, Action.AGENT_JOINED, "become_root", ""])
async def test_what_a_role_may_not_say_is_put_aside(start: Start, client: Redis, friend: Speaker, action: str) -> None:
    await start()
    await friend.say(action, tasks=[])

    await goes_on(client, friend)

    assert await quarantined(client) == ["not_permitted"]


@pytest.mark.parametrize("field", ["sender", "recipient"])
async def test_a_message_whose_inside_contradicts_what_was_signed_is_put_aside(
    start: Start, client: Redis, friend: Speaker, field: str
) -> None:
    await start()
    message = A2AMessage.decode((await friend.signed(Action.SUBMIT_TASK, tasks=[])).body)
    await friend.say(Action.SUBMIT_TASK, body=structs.replace(message, **{field: "somebody-else"}).encode())

    await goes_on(client, friend)

    assert await quarantined(client) == ["not_permitted"]


async def test_a_worker_is_not_heard_by_a_coordinator(start: Start, client: Redis, friend: Speaker) -> None:
    """It has no link with it; whatever it says there, it could only have signed with a key that is not for that."""
    await start()
    worker = Speaker(client, (COORDINATOR, DISTRIBUTOR, WORKER), COORDINATOR, KEYS.inbox)
    await worker.say(Action.TASK_RESULT, tasks=[])

    await goes_on(client, friend)

    assert await quarantined(client) == ["bad_signature"]


# ---- once, and in time ----


async def test_a_message_that_is_posted_again_is_acted_on_once(start: Start, client: Redis, friend: Speaker) -> None:
    await start()
    signed = await friend.signed(Action.SUBMIT_TASK, tasks=[orjson.loads(a_task("once").to_json())])
    await friend.post(signed)
    await friend.post(signed)

    await goes_on(client, friend)

    assert await quarantined(client) == ["replayed"]


async def test_a_message_that_is_posted_again_after_a_restart_is_refused(
    start: Start, client: Redis, friend: Speaker
) -> None:
    agent = await start()
    signed = await friend.signed(Action.SUBMIT_TASK, tasks=[orjson.loads(a_task("once").to_json())])
    await friend.post(signed)
    await goes_on(client, friend)
    await agent.close.aio()

    await friend.post(signed)
    await start()
    await friend.submit("after-the-restart")

    async def done() -> bool:
        return "after-the-restart" in await known(client)

    await until_async(done, "the coordinator is back")
    assert await quarantined(client) == ["replayed"]


async def test_what_was_not_acknowledged_is_delivered_again(start: Start, client: Redis, friend: Speaker) -> None:
    for name in ("a", "b", "c"):  # nobody reads yet
        await friend.submit(name)

    await start()
    await goes_on(client, friend)

    assert {"a", "b", "c"} <= await known(client)
    assert await quarantined(client) == []


@pytest.mark.parametrize("off_ms", [-601_000, 601_000])
async def test_a_message_signed_long_before_or_after_it_was_posted_is_put_aside_as_stale(
    start: Start, client: Redis, friend: Speaker, off_ms: int
) -> None:
    await start()
    seconds, _ = await client.time()
    await friend.submit("stale", timestamp=seconds * 1000 + off_ms)

    await goes_on(client, friend)

    assert await quarantined(client) == ["stale"]
    assert "stale" not in await known(client)


async def test_a_backlog_of_hours_does_not_make_a_message_stale(start: Start, client: Redis, friend: Speaker) -> None:
    seconds, _ = await client.time()
    then_ms = (seconds - 7200) * 1000
    signed = await friend.signed(Action.SUBMIT_TASK, tasks=[orjson.loads(a_task("old").to_json())], timestamp=then_ms)
    fields = signed.fields()
    await client.xadd(KEYS.inbox, dict(zip(fields[::2], fields[1::2], strict=True)), id=f"{then_ms + 5}-0")

    await start()
    await goes_on(client, friend)

    assert "old" in await known(client)


async def test_an_incarnation_that_has_been_replaced_is_not_heard(start: Start, client: Redis, friend: Speaker) -> None:
    await start()
    successor = replace(friend, incarnation=2, number=0)
    await successor.submit("by-the-successor")
    await friend.submit("by-the-zombie")

    await goes_on(client, successor)

    assert "by-the-successor" in await known(client)
    assert await quarantined(client) == ["stale"]


async def test_what_was_meant_for_an_earlier_start_of_an_agent_is_dropped_without_blame(
    redis_config: RedisConfig, client: Redis
) -> None:
    agent = DistributorAgent("distributor-1", redis_config, A2A, config=FAST)
    async with agent:
        parent = Speaker(client, (COORDINATOR,), DISTRIBUTOR, CELL.inbox)
        tasks = {name: [orjson.loads(a_task(name).to_json())] for name in ("late", "good")}
        await parent.say(Action.ASSIGN_TASK, tasks=tasks["late"], audience=1)
        await parent.say(Action.ASSIGN_TASK, tasks=tasks["good"])

        async def done() -> bool:
            return bool(await client.hexists(CELL.actual, "good"))

        await until_async(done, "the second message is taken")

        assert not await client.hexists(CELL.actual, "late")
        assert await client.exists(CELL.agent("coordinator-1").quarantine) == 0


# ---- bounds ----


async def test_the_quarantine_is_bounded_and_the_count_is_not(start: Start, client: Redis, friend: Speaker) -> None:
    pipeline = client.pipeline(transaction=False)
    for _ in range(3000):
        pipeline.xadd(KEYS.inbox, {"hello": "world"})
    await pipeline.execute()

    await start()
    await goes_on(client, friend)

    assert await client.hget(KEYS.header, "rejected:malformed") == b"3000"
    assert await client.xlen(KEYS.agent.quarantine) < 1200


async def test_a_heartbeat_that_is_forged_is_counted_and_makes_nobody_alive(
    start: Start, client: Redis, friend: Speaker
) -> None:
    agent = await start()
    distributor = Speaker(client, (COORDINATOR, DISTRIBUTOR), COORDINATOR, KEYS.inbox)
    good = await distributor.signed(Action.BEAT, beat=1, capacity=5, capabilities=["task:sum"])
    beats = {
        "distributor-9": good.pack(),  # somebody else's
        "distributor-8": replace(good, signature=b"0" * 64).pack(),
        "distributor-7": b"nonsense",
        "distributor-1": good.pack(),
    }
    await client.hset(KEYS.heartbeats, mapping=beats)

    await until_async(lambda: agent.state.distributors, "the good heartbeat is heard")
    await until_async(lambda: sum(agent.loop.inbox.rejected.values()) == 3, "the three others are counted")

    assert set(agent.state.distributors) == {"distributor-1"}


async def test_a_message_on_which_a_step_fails_is_put_aside_and_those_beside_it_are_acted_on(
    start: Start, client: Redis, friend: Speaker
) -> None:
    """Signed and permitted, and still not to be understood: a task result without a task id."""
    distributor = Speaker(client, (COORDINATOR, DISTRIBUTOR), COORDINATOR, KEYS.inbox)
    await friend.submit("before")
    await distributor.say(Action.TASK_RESULT, tasks=[{"no": "id"}])
    await friend.submit("after")

    await start()
    await goes_on(client, friend)

    assert {"before", "after"} <= await known(client)
    assert await quarantined(client) == ["malformed"]


async def test_what_was_verified_and_then_rewound_is_neither_acknowledged_nor_a_replay(
    redis_config: RedisConfig, client: Redis, friend: Speaker
) -> None:
    """When a step fails, the entries are taken singly; the last must not be deleted with the first."""
    signing = KeyRing.from_secret(SECRET, (COORDINATOR,))
    wire = Wire(redis_config)
    inbox = Inbox(wire, COORDINATOR, signing, KEYS.agent, ServerClock(), freshness_ms=600_000, limit_bytes=10_000)
    ids = [await friend.submit(name) for name in ("a", "b")]
    entries = await inbox.read()
    await wire.close()
    assert len(inbox.verify(entries, 1)) == 2

    inbox.rewind([])
    assert len(inbox.verify(entries[:1], 1)) == 1
    commands = inbox.settle(now_ms=0)

    assert ("XDEL", KEYS.inbox, ids[0]) in commands
    assert len(inbox.verify(entries[1:], 1)) == 1
    assert inbox.rejected == {}


# ---- a stream that begins anew ----


async def test_messages_that_come_to_a_deleted_inbox_while_the_servers_clock_is_behind_are_read(
    start: Start, client: Redis, friend: Speaker
) -> None:
    """Their ids are lower than those that were read before."""
    await start()
    before = (await friend.signed(Action.SUBMIT_TASK, tasks=[orjson.loads(a_task("before").to_json())])).fields()
    seconds, _ = await client.time()
    await client.xadd(KEYS.inbox, dict(zip(before[::2], before[1::2], strict=True)), id=f"{seconds + 60}000-0")

    async def read() -> bool:
        return "before" in await known(client) and await client.xlen(KEYS.inbox) == 0

    await until_async(read, "the message from the future is taken")
    await client.delete(KEYS.inbox)

    await goes_on(client, friend)
