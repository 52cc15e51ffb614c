"""A2A messages over a real server: the way they take, their types, their causal metadata, their signatures.

Each link is looked at with only its sender running, so that what was said still lies in the recipient's stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from core import A2AMessage, MessageType, RedisConfig, Task
from core.errors import BadSignature
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Action, Address, Role
from core.signing import KeyRing, Signed
from tests.builders import SECRET, items
from tests.integration.hierarchy import House, house
from tests.integration.speaker import Redis, Speaker, overheard
from tests.waiting import until_async

K, D, W = Address(Role.COORDINATOR, "k"), Address(Role.DISTRIBUTOR, "d"), Address(Role.WORKER, "w")
C = Address(Role.CLIENT, "c~1")
KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
CHAINS = {K: (K,), D: (K, D), W: (K, D, W), C: (K, C)}
STREAMS = {K: KEYS.inbox, D: CELL.inbox, W: CELL.worker_inbox("w"), C: KEYS.replies(C)}

Said = list[tuple[Signed, A2AMessage]]


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as opened:
        yield opened


async def said_to(client: Redis, recipient: Address, action: str) -> Said:
    """The messages about `action` that lie in front of `recipient`, once there are some."""

    async def there() -> Said:
        said = await overheard(client, STREAMS[recipient], CHAINS[recipient])
        return [message for message in said if message[1].action == action]

    return await until_async(there, f"{action} lies in front of {recipient}")


def speaker(client: Redis, sender: Address, recipient: Address) -> Speaker:
    return Speaker(client, CHAINS[sender], recipient, STREAMS[recipient])


async def stopped(asking: asyncio.Task[Any]) -> None:
    """Nobody is there to answer."""
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


def add(task_id: str, *numbers: int) -> Task:
    return Task(task_id=task_id, task_type="add", payload=list(numbers))


def check(said: Said, kind: MessageType, sender: Address, recipient: Address) -> A2AMessage:
    """The first message; its type, its way and its signature are as they must be."""
    signed, message = said[0]
    assert message.type is kind
    assert signed.sender == sender
    assert (message.sender, message.recipient) == (sender.agent_id, recipient.agent_id)
    assert message.metadata.origin == sender.agent_id
    assert message.metadata.version == "v1"
    with pytest.raises(BadSignature):
        KeyRing.from_secret(SECRET, CHAINS[recipient]).verify(Signed(sender, signed.key_id, signed.signature, b"{}"))
    return message


# ---- routing and types, link by link ----


async def test_a_client_submits_with_a_request_to_its_coordinator(agents: House, client: Redis) -> None:
    me = await agents.client("c~1")
    submitting = asyncio.create_task(me.submit.aio(add("t", 1)))

    said = await said_to(client, K, "submit_task")
    await stopped(submitting)

    message = check(said, MessageType.REQUEST, C, K)
    assert [item["task_id"] for item in items(message)] == ["t"]


async def test_a_coordinator_acknowledges_and_names_what_it_refuses_in_an_error(agents: House, client: Redis) -> None:
    me = speaker(client, C, K)
    await me.submit("t")
    await me.say(Action.SUBMIT_TASK, tasks=[{"task_id": "bad"}])
    await agents.coordinator()

    await until_async(lambda: client.xlen(STREAMS[C]), "an answer lies there")
    said = await said_to(client, C, "task_accepted")

    accepted = check(said, MessageType.ACK, K, C)
    refused = check(said[1:], MessageType.ERROR, K, C)
    assert accepted.metadata.parent_request_id == "request-1"
    assert refused.metadata.parent_request_id == "request-2"
    assert [refusal["task_id"] for refusal in refused.payload["refused"]] == ["bad"]


async def test_a_coordinator_assigns_with_a_request_to_a_distributor(agents: House, client: Redis) -> None:
    coordinator = await agents.coordinator()
    await coordinator.assign_task_to_distributor.aio(add("t", 1, 2), "d")

    message = check(await said_to(client, D, "assign_task"), MessageType.REQUEST, K, D)

    assert [(item["task_id"], item["payload"]) for item in items(message)] == [("t", [1, 2])]
    assert (await overheard(client, STREAMS[W], CHAINS[W])) == []


async def test_a_distributor_announces_itself_with_an_event_to_its_coordinator(agents: House, client: Redis) -> None:
    await agents.distributor()

    check(await said_to(client, K, "agent_joined"), MessageType.EVENT, D, K)


async def test_a_distributor_assigns_with_a_request_to_the_worker_of_this_start(agents: House, client: Redis) -> None:
    await agents.distributor()
    worker = speaker(client, W, D)
    await worker.say(Action.AGENT_JOINED, beat=1, concurrency=4, capabilities=["task:add"], incarnation=77)
    await speaker(client, K, D).say(Action.ASSIGN_TASK, tasks=[orjson.loads(add("t", 1).to_json())])

    message = check(await said_to(client, W, "assign_task"), MessageType.REQUEST, D, W)

    assert message.metadata.audience == 77
    assert [(item["task_id"], item["attempt"]) for item in items(message)] == [("t", 1)]


async def test_a_worker_answers_with_a_response_to_its_distributor(agents: House, client: Redis) -> None:
    task = add("t", 1, 2).evolve(attempt=5)
    await speaker(client, D, W).say(Action.ASSIGN_TASK, tasks=[orjson.loads(task.to_json())])
    await agents.worker("w")

    message = check(await said_to(client, D, "task_result"), MessageType.RESPONSE, W, D)

    [item] = items(message)
    assert (item["task_id"], item["attempt"], item["status"], item["result"]) == ("t", 5, "completed", 3)


async def test_a_single_task_in_a_message_is_understood_as_well(agents: House, client: Redis) -> None:
    await speaker(client, D, W).say(Action.ASSIGN_TASK, task=orjson.loads(add("t", 4).evolve(attempt=1).to_json()))
    await agents.worker("w")

    [(_, message)] = await said_to(client, D, "task_result")

    assert items(message)[0]["result"] == 4


@pytest.mark.parametrize("tier", ["distributor", "worker"])
async def test_a_heartbeat_lies_beside_the_streams_and_is_signed(agents: House, client: Redis, tier: str) -> None:
    await (agents.distributor() if tier == "distributor" else agents.worker("w"))
    child, parent, key = (D, K, KEYS.heartbeats) if tier == "distributor" else (W, D, CELL.heartbeats)

    signed = Signed.unpack(await client.hget(key, child.agent_id))
    KeyRing.from_secret(SECRET, CHAINS[parent]).verify(signed)
    message = A2AMessage.decode(signed.body)

    assert (message.type, message.sender, message.recipient) == (MessageType.HEARTBEAT, child.agent_id, parent.agent_id)
    assert message.payload["beat"] >= 1


async def test_an_agent_that_stops_says_so_and_takes_its_heartbeat_along(agents: House, client: Redis) -> None:
    distributor = await agents.distributor()
    await distributor.close.aio()

    check(await said_to(client, K, "agent_left"), MessageType.EVENT, D, K)
    assert not await client.exists(KEYS.heartbeats)


async def test_a_client_that_stopped_reading_finds_its_result_in_its_stream(agents: House, client: Redis) -> None:
    await speaker(client, C, K).say(Action.SUBMIT_TASK, tasks=[orjson.loads(add("t", 1, 2).to_json())])
    await agents.coordinator()
    await agents.distributor()
    await agents.worker("w")

    message = check(await said_to(client, C, "task_result"), MessageType.RESPONSE, K, C)

    assert [(item["task_id"], item["result"]) for item in items(message)] == [("t", 3)]
    assert 0 < await client.ttl(STREAMS[C]) <= 3600


# ---- causal metadata ----


async def test_messages_to_one_recipient_are_numbered_without_a_gap(agents: House, client: Redis) -> None:
    coordinator = await agents.coordinator()
    for number in range(5):
        await coordinator.assign_task_to_distributor.aio(add(f"t{number}", 1), "d")
    await coordinator.assign_task_to_distributor.aio(add("other", 1), "another")

    said = await overheard(client, STREAMS[D], CHAINS[D])
    [(_, elsewhere)] = await overheard(client, CellKeys("another").inbox, (K, Address(Role.DISTRIBUTOR, "another")))

    assert [message.metadata.sequence_number for _, message in said] == [1, 2, 3, 4, 5]
    assert elsewhere.metadata.sequence_number == 1
    assert len({message.metadata.request_id for _, message in said}) == 5


async def test_a_new_start_counts_anew_under_a_higher_incarnation(agents: House, client: Redis) -> None:
    for _ in range(2):
        coordinator = await agents.coordinator()
        await coordinator.assign_task_to_distributor.aio(add(f"t{_}", 1), "d")
        await coordinator.close.aio()

    first, second = [message.metadata for _, message in await overheard(client, STREAMS[D], CHAINS[D])]

    assert (first.sequence_number, second.sequence_number) == (1, 1)
    assert second.incarnation > first.incarnation


async def test_messages_are_dated_by_the_servers_clock(agents: House, client: Redis) -> None:
    coordinator = await agents.coordinator()
    await coordinator.assign_task_to_distributor.aio(add("t", 1), "d")

    [(entry_id, _)] = await client.xrange(STREAMS[D])
    [(_, message)] = await overheard(client, STREAMS[D], CHAINS[D])

    assert abs(int(entry_id.partition(b"-")[0]) - message.metadata.timestamp) < 1000


async def test_many_tasks_travel_in_few_messages(agents: House, client: Redis) -> None:
    me = await agents.client("c~1")
    submitting = asyncio.create_task(me.submit_many.aio([add(f"t{n}", n) for n in range(300)]))

    async def all_there() -> bool:
        said = await overheard(client, STREAMS[K], CHAINS[K])
        return sum(len(message.tasks) for _, message in said) == 300

    await until_async(all_there, "all have been sent")
    await stopped(submitting)

    assert await client.xlen(STREAMS[K]) <= 4


# ---- nothing is left over ----


async def test_what_was_dealt_with_lies_in_no_stream(agents: House, client: Redis) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker("w")
    me = await agents.client("c~1")
    ids = await me.submit_many.aio([add(f"t{n}", n) for n in range(50)])
    _ = [task async for task in me.as_completed(ids)]

    async def empty() -> bool:
        return not any([await client.xlen(STREAMS[address]) for address in (K, D, W)])

    await until_async(empty, "all inboxes are empty")
