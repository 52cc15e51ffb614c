"""Who acts for an agent id: one process while its standbys wait; and one that has lost its lease, or is stuck."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from coordinator.agent import CoordinatorAgent
from core.config.settings import RedisConfig
from core.config.variables import secret_text
from core.errors import LeaseHeld, LeaseLost, Wedged
from core.langgraph_state import Lease
from core.operations.overview import read_overview
from core.operations.reader import reading
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_backend.keys import CoordinatorKeys, keys_of
from core.redis_client import Wire
from core.roles import Address, Role
from core.tasks import Task
from tests.integration.hierarchy import FAST, House, add
from tests.integration.speaker import Redis
from tests.waiting import until_async

ME, KEYS = Address(Role.COORDINATOR, "k"), CoordinatorKeys("k").agent
STANDBY = FAST.model_copy(update={"standby": True})


async def epoch(client: Redis) -> int:
    held = await client.get(KEYS.lease)
    return Lease.from_json(held).epoch if held else 0


async def shown_standbys(agents: House) -> tuple[str, ...]:
    async with reading(agents.redis) as reader:
        return (await read_overview(reader, "k")).agents[0].standbys


@asynccontextmanager
async def closing_committer(redis: RedisConfig, chain: tuple[Address, ...]) -> AsyncIterator[Committer]:
    """Another holder of an agent's lease, which has not taken it yet and gives it back in the end."""
    committer = Committer(Wire(redis), chain[-1], keys_of(chain), ServerClock(), lease_ms=1000)
    try:
        yield committer
        await committer.leaseholder.release()
    finally:
        await committer.close()


@pytest.fixture
async def rival(redis_config: RedisConfig) -> AsyncIterator[Committer]:
    """Another holder of the coordinator's lease, which has not taken it yet."""
    async with closing_committer(redis_config, (ME,)) as committer:
        yield committer


async def test_a_second_live_agent_of_the_same_id_is_refused(full: House) -> None:
    with pytest.raises(LeaseHeld, match="'d'"):
        await full.distributor("d")


async def test_a_standby_waits_and_takes_over_with_a_higher_fence(
    agents: House, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = await agents.coordinator()
    before = await epoch(client)
    second = CoordinatorAgent("k", agents.redis, first._a2a, STANDBY)
    waiting = asyncio.create_task(second.initialize.aio())
    await until_async(lambda: second.condition.status == "standby", "the second one waits for the lease")
    # For longer than a holder takes to renew, so that one which is no standby would have given up.
    commits = Lease.from_json(await client.get(KEYS.lease)).commits

    async def renewed_twice() -> bool:
        return Lease.from_json(await client.get(KEYS.lease)).commits >= commits + 2

    await until_async(renewed_twice, "the first one has renewed its lease")
    assert not waiting.done()
    assert second.condition.ready
    said = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "standby_waits"]
    assert said == [f"coordinator:k waits: process {os.getpid()} on {socket.gethostname()} acts for it now"]

    async def shown() -> bool:
        return await shown_standbys(agents) == (f"{os.getpid()}@{socket.gethostname()}",)

    await until_async(shown, "the second one is shown")

    await first.close.aio()
    await waiting
    try:
        assert second.condition.status == "ready"
        assert await epoch(client) > before
        assert await shown_standbys(agents) == ()
    finally:
        await second.close.aio()


async def test_an_agent_starts_over_with_a_higher_fence_when_the_server_has_lost_its_memory(
    full: House, client: Redis
) -> None:
    before = await epoch(client)
    me = await full.client()
    assert await me.value.aio(await me.submit.aio(add("before", 1, 2))) == 3

    await client.flushall()

    async def acts_again() -> bool:
        return await epoch(client) > before

    await until_async(acts_again, "the coordinator acts again")
    # All of them: an answer needs the distributor and a worker as well.
    assert await me.value.aio(await me.submit.aio(add("after", 2, 2)), timeout_s=20) == 4


async def test_an_agent_that_starts_over_while_the_password_is_changed_waits_for_its_own_to_be_taken(
    agents: House, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = await agents.coordinator()
    before = await epoch(client)

    await client.config_set("requirepass", "changed")
    await client.flushall()  # its lease is gone; its connection is not, and so it finds out
    try:
        await until_async(lambda: "refuses to let us in" in caplog.text, "the coordinator has been turned away")
    finally:
        await client.config_set("requirepass", secret_text(agents.redis.password) or "")

    await until_async(lambda: coordinator.condition.status == "ready", "the coordinator acts again")
    assert await epoch(client) > before
    assert caplog.text.count(" waits: ") == 1


async def test_an_agent_whose_place_was_taken_ends_and_who_asks_it_is_told(
    agents: House, client: Redis, rival: Committer
) -> None:
    coordinator = await agents.coordinator()

    async def taken() -> bool:
        if not rival.lease.epoch:
            await client.delete(KEYS.lease)  # as if it had run out while that process stood still
            await rival.leaseholder.acquire()
        await rival.renew()
        return coordinator.condition.status == "ended"

    await until_async(taken, "the first one has found out")
    with pytest.raises(LeaseHeld):
        await coordinator.wait()
    with pytest.raises(LeaseLost):
        await coordinator.assign_task_to_distributor.aio(add("t", 1), "d")
    assert coordinator.condition.status == "ended"


async def test_a_worker_that_has_lost_its_lease_runs_nothing_until_it_has_it_again(
    agents: House, client: Redis
) -> None:
    await agents.coordinator()
    await agents.distributor()
    worker = await agents.worker(config=STANDBY.model_copy(update={"concurrency": 1}))
    me = await agents.client()
    ids = await me.submit_many.aio([Task(task_id=f"t{number}", task_type="wait") for number in range(3)])
    executor = worker._worker_behaviour.executor
    await until_async(lambda: executor.running and executor.queued == 2, "one runs, and the rest wait behind it")
    chain = (ME, Address(Role.DISTRIBUTOR, "d"), Address(Role.WORKER, "w"))
    async with closing_committer(agents.redis, chain) as other:

        async def taken() -> bool:
            if not other.lease.epoch:
                await client.delete(keys_of(chain).lease)  # as if it had run out while that process stood still
                with suppress(LeaseHeld):  # the worker may be quicker
                    await other.leaseholder.acquire()
                return False
            await other.renew()
            return worker.condition.status == "standby" and not executor.running

        await until_async(taken, "the worker waits, and has stopped what it ran")
        assert executor.queued == 0
        assert agents.runs.total() == 1
    for task_id in ids:
        agents.door(task_id).set()

    assert {task.task_id async for task in me.as_completed(ids, 20)} == set(ids)
    assert agents.runs.total() == 4


async def test_an_agent_that_does_nothing_though_there_is_work_ends_itself(agents: House, client: Redis) -> None:
    coordinator = await agents.coordinator()

    async def stuck(effects: Sequence[Any]) -> None:
        await asyncio.Event().wait()

    coordinator._behaviour.perform = stuck  # type: ignore[method-assign]
    before = await epoch(client)

    with pytest.raises(Wedged, match="nothing has moved"):
        async with asyncio.timeout(20):
            await coordinator.wait()

    second = await agents.coordinator()  # nobody renews the lease any more
    assert second.condition.ready
    assert await epoch(client) > before


async def test_an_idle_agent_whose_inbox_could_not_be_read_for_a_while_is_ready_again_afterwards(
    agents: House, client: Redis
) -> None:
    coordinator = await agents.coordinator()
    await client.execute_command("ACL", "SETUSER", "default", "-xread")  # an operator's mistake
    try:
        await until_async(lambda: coordinator.condition.status == "unready", "it says that it cannot work")
    finally:
        await client.execute_command("ACL", "SETUSER", "default", "+xread")

    await until_async(lambda: coordinator.condition.status == "ready", "it says that it can")
