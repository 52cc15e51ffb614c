"""Somebody who can only write to Redis makes nothing that runs, and nothing that a client is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from core.config.settings import RedisConfig
from core.errors import TaskLost, TaskRefused, UnknownTask
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Address, Role
from core.tasks import Task
from core.wiring import keys_for
from tests.builders import SECRET, a_task
from tests.faults.keyspace import rejections
from tests.integration.hierarchy import House, add, house, runs, signed_as, wait
from tests.integration.speaker import Redis

KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
ANOTHER = "another root secret, long enough"


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as home:
        yield home


async def forge(client: Redis, key: str, name: str, **changes: Any) -> bytes:
    """Changes a stored record, or makes one, and keeps the seal that there is. Returns what was there."""
    before = bytes(await client.hget(key, name) or a_task(name).to_json())
    await client.hset(key, name, orjson.dumps({**orjson.loads(before), **changes}))
    return before


async def test_a_forged_result_is_told_to_nobody_and_the_true_one_is_when_it_is_put_back(
    agents: House, client: Redis
) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    me = await agents.client("bob")
    assert await me.value.aio(await me.submit.aio(add("t", 1, 2)), 20) == 3
    before = await forge(client, KEYS.tasks, "t", result=666)

    given = keys_for((Address(Role.COORDINATOR, "k"), Address(Role.CLIENT, "bob")), signed_as("k"), agents.redis)
    own_key = {"token_secret": None, "agent_key": given.export()}
    for again in (await agents.client("bob"), await agents.client("bob", **own_key)):
        with pytest.raises((UnknownTask, TaskLost)):
            await again.result.aio("t", 10)
    assert "forged_record" in await rejections(client)

    await client.hset(KEYS.tasks, "t", before)
    for again in (await agents.client("bob"), await agents.client("bob", **own_key)):
        assert await again.value.aio("t", 10) == 3


async def test_forged_tasks_never_run_and_the_client_of_a_changed_one_is_told_that_it_is_lost(
    agents: House, client: Redis
) -> None:
    coordinator = await agents.coordinator()
    me = await agents.client("bob")
    await me.submit_many.aio([add("changed", 1), add("whole", 2), add("copied", 3), add("rubbish", 4)])
    await coordinator.close.aio()
    await forge(client, KEYS.tasks, "changed", payload=[666])
    await client.hset(KEYS.tasks, "made-up", a_task("made-up", task_type="add", payload=[666]).to_json())
    await client.hset(KEYS.tasks, "other", await client.hget(KEYS.tasks, "copied"))
    await client.hset(KEYS.tasks, "rubbish", b"\xff")
    await client.zadd(KEYS.open, {"made-up": 1, "other": 2, "nothing": 3, b"\xff\xfe": 4})

    await agents.coordinator()
    await agents.distributor()
    await agents.worker()

    assert [await me.value.aio(task_id, 20) for task_id in ("whole", "copied")] == [2, 3]
    with pytest.raises(TaskLost):
        await me.result.aio("changed", 20)
    assert set(agents.runs) == {"whole", "copied"}
    assert await rejections(client) == ["forged_record"] * 4
    assert await client.zcard(KEYS.open) == 0
    assert await me.value.aio(await me.submit.aio(add("changed", 1)), 20) == 1


async def test_what_is_forged_in_a_cell_is_dropped_and_handed_over_again_as_it_is(agents: House, client: Redis) -> None:
    await agents.coordinator()
    distributor, worker = await agents.distributor(), await agents.worker()
    me = await agents.client("bob")
    await me.submit_many.aio([wait("t", 1), wait("whole", 2)])
    await runs(agents, "t")
    await runs(agents, "whole")
    for agent in (worker, distributor):
        await agent.close.aio()
    await forge(client, CELL.actual, "t", payload=666)
    await client.hset(CELL.actual, "made-up", a_task("made-up", task_type="add", payload=[666], root_id="x").to_json())

    await agents.distributor()
    await agents.worker()
    for task_id in ("t", "whole"):
        agents.door(task_id).set()

    assert [await me.value.aio(task_id, 20) for task_id in ("t", "whole")] == [1, 2]
    assert set(agents.runs) == {"t", "whole"}


async def test_a_dead_letter_whose_message_is_forged_is_not_replayed_as_that(agents: House, client: Redis) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    ops = await agents.client("operator:ops")
    await ops.submit.aio(Task(task_id="dead", task_type="fan", payload="no number"))
    assert (await ops.result.aio("dead", 20)).status == "failed"
    [(entry, kept)] = (await client.hgetall(KEYS.submissions)).items()
    await client.hset(KEYS.submissions, entry, kept.replace(b"no number", b"666666666"))

    replayed = await ops.replay.aio("dead")

    assert (await ops.result.aio(replayed, 20)).payload == "no number"  # as its record, which is sealed, has it
    await forge(client, KEYS.tasks, replayed, payload=666)
    with pytest.raises(TaskRefused):
        await ops.replay.aio(replayed)


async def test_a_coordinator_with_a_wrong_secret_runs_nothing_and_throws_nothing_away(
    agents: House, client: Redis
) -> None:
    coordinator, distributor = await agents.coordinator(), await agents.distributor()
    worker = await agents.worker()
    me = await agents.client("bob")
    await me.submit_many.aio([wait("open", 2), Task(task_id="dead", task_type="slow")])
    assert (await me.result.aio("dead", 20)).status == "failed"
    await runs(agents, "open")
    for agent in (worker, distributor, coordinator):
        await agent.close.aio()
    before = await _stored(client)

    wrong = {"token_secret": ANOTHER}
    for agent in (await agents.distributor(a2a_config=signed_as("d", **wrong)),
                  await agents.coordinator(a2a_config=signed_as("k", **wrong))):  # fmt: skip
        await agent.close.aio()

    assert await _stored(client) == before
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    agents.door("open").set()
    assert await me.value.aio("open", 20) == 2
    assert await client.zrange(KEYS.dead, 0, -1) == [b"dead"]


async def _stored(client: Redis) -> list[Any]:
    hashes = [await client.hgetall(key) for key in (KEYS.tasks, KEYS.submissions, CELL.actual)]
    return [*hashes, await client.zrange(KEYS.open, 0, -1), await client.zrange(KEYS.dead, 0, -1)]


async def test_a_change_of_the_root_secret_seals_anew_what_the_old_one_has_sealed(agents: House, client: Redis) -> None:
    coordinator, distributor = await agents.coordinator(), await agents.distributor()
    worker = await agents.worker()
    me = await agents.client("bob")
    await me.submit.aio(add("ended", 1))
    assert await me.value.aio("ended", 20) == 1
    await me.submit.aio(wait("open", 2))
    await runs(agents, "open")
    for agent in (worker, distributor, coordinator):
        await agent.close.aio()

    both, new = {"token_secret": ANOTHER, "previous_secret": SECRET.decode()}, {"token_secret": ANOTHER}
    coordinator = await agents.coordinator(a2a_config=signed_as("k", **both))
    distributor = await agents.distributor(a2a_config=signed_as("d", **both))
    for agent in (distributor, coordinator):
        await agent.close.aio()
    await agents.coordinator(a2a_config=signed_as("k", **new))
    await agents.distributor(a2a_config=signed_as("d", **new))
    await agents.worker(a2a_config=signed_as("w", **new))
    agents.door("open").set()

    later = await agents.client("bob", **new)
    assert [await later.value.aio(task_id, 20) for task_id in ("ended", "open")] == [1, 2]
    assert "forged_record" not in await rejections(client)
