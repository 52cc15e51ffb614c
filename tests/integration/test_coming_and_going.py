"""All three tiers in one event loop, over a real server: agents that come, go, lack memory, or change their keys."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from core.config.settings import AgentConfig, RedisConfig
from core.errors import TaskRefused
from core.redis_backend.keys import ACTIVE, CellKeys, CoordinatorKeys
from core.roles import Address, Role
from core.runtime import agent as agent_module
from core.signing import KeyRing
from core.step import Batch, Drain, Step
from core.tasks import Task
from distributor.agent import DistributorAgent
from distributor.rules import ON_EVENT, on_drain
from distributor.state import DistributorState
from tests.builders import SECRET
from tests.integration.hierarchy import FAST, House, add, runs, signed_as, spawn, wait
from tests.integration.speaker import Redis
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until_async

KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
OLD_SECRET = "the root secret before the rotation"


# ---- agents that come and go ----


async def test_the_tasks_of_a_worker_that_stops_are_finished_by_another(full: House) -> None:
    me = await full.client()
    third = await full.worker("w3", capabilities=["here"])
    await me.submit.aio(wait("t", "done", capabilities=("here",)))
    await runs(full, "t")
    await full.worker("w4", capabilities=["here"])

    await third.close.aio()
    await runs(full, "t", attempts=2)
    full.door("t").set()

    assert (await me.result.aio("t", timeout_s=5)).assigned_to == "d/w4"


async def test_a_worker_that_drains_finishes_what_runs_and_gives_back_the_rest(agents: House) -> None:
    await agents.coordinator()
    await agents.distributor()
    worker = await agents.worker("w1", config=FAST.model_copy(update={"concurrency": 1}))
    me = await agents.client()
    await me.submit_many.aio([wait("runs", 1), wait("waits", 2)])
    await runs(agents, "runs")
    await until_async(lambda: worker.state.local_tasks.keys() >= {"runs", "waits"}, "it has been handed both")

    draining = asyncio.create_task(worker.drain(timeout_s=20))
    await until_async(lambda: "waits" not in worker.state.local_tasks, "it has given back what waited")
    agents.door("runs").set()
    assert await draining is True
    agents.door("waits").set()
    await agents.worker("w2")

    results = {task.task_id: task async for task in me.as_completed(["runs", "waits"], timeout_s=10)}
    assert {name: (task.assigned_to, task.retry_count) for name, task in results.items()} == {
        "runs": ("d/w1", 1),
        "waits": ("d/w2", 1),
    }


async def test_an_agent_that_was_told_to_drain_does_though_the_step_that_was_to_begin_it_failed(
    agents: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Drain] = []

    def fails_once(state: DistributorState, event: Drain, batch: Batch, step: Step) -> None:
        if not failed:
            failed.append(event)
            raise RuntimeError("not now")
        on_drain(state, event, batch, step)

    monkeypatch.setitem(ON_EVENT, Drain, fails_once)
    distributor = await agents.distributor()

    assert await distributor.drain(timeout_s=10) is True
    assert failed


async def test_an_agent_drains_in_the_time_it_has_though_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "HAND_BACK_S", 0.2)
    with RedisServer(bundled_server()) as server:
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        distributor = DistributorAgent("d", redis, signed_as("d"), "k", FAST.model_copy(update={"lease_s": 60.0}))
        await distributor.initialize.aio()
    await until_async(lambda: distributor.loop.watchdog.away, "it notices")

    assert await distributor.drain(timeout_s=0) is False


async def test_what_does_not_end_within_the_drain_time_is_finished_by_another(full: House) -> None:
    me = await full.client()
    third = await full.worker("w3", capabilities=["here"])
    await me.submit.aio(wait("t", "done", capabilities=("here",)))
    await runs(full, "t")

    assert await third.drain(timeout_s=0.1) is False
    await full.worker("w4", capabilities=["here"])
    full.door("t").set()

    task = await me.result.aio("t", timeout_s=10)
    assert (task.result, task.assigned_to, task.retry_count) == ("done", "d/w4", 1)


async def test_a_distributor_that_restarts_keeps_its_tasks(agents: House) -> None:
    await agents.coordinator()
    distributor = await agents.distributor()
    await agents.worker("w1", config=FAST.model_copy(update={"concurrency": 2}))
    me = await agents.client()
    ids = await me.submit_many.aio([wait(f"t{n}", n) for n in range(6)])
    await runs(agents, "t0")

    await distributor.close.aio()
    await agents.distributor()
    for task_id in ids:
        agents.door(task_id).set()

    results = {task.task_id: task.result async for task in me.as_completed(ids, timeout_s=10)}
    assert results == {f"t{n}": n for n in range(6)}
    assert set(agents.runs.values()) == {1}


async def test_the_tasks_of_a_distributor_that_is_gone_are_finished_by_another(agents: House) -> None:
    await agents.coordinator()
    first = await agents.distributor("d1")
    await agents.worker("w1", "d1")
    me = await agents.client()
    ids = await me.submit_many.aio([wait(f"t{n}", n) for n in range(6)])
    await runs(agents, "t0")

    await first.close.aio()
    await agents.distributor("d2")
    await agents.worker("w2", "d2")
    for task_id in ids:
        agents.door(task_id).set()

    results = [task async for task in me.as_completed(ids, timeout_s=10)]
    assert {task.assigned_to for task in results} == {"d2/w2"}


async def test_what_a_program_assigned_waits_for_its_own_distributor_while_the_rest_is_taken_over(
    agents: House,
) -> None:
    coordinator = await agents.coordinator()
    first = await agents.distributor("d1")
    await agents.worker("w1", "d1", config=FAST.model_copy(update={"concurrency": 2}))
    me = await agents.client()
    await me.submit.aio(wait("t", "moved"))
    await until_async(lambda: "w1" in first.state.workers, "its worker is there")
    assert await first.assign_task_to_worker.aio(wait("own"), "w1")
    await runs(agents, "t")
    await runs(agents, "own")

    async def own() -> Task:
        state = await coordinator.get_distributor_state.aio("d1")
        assert state
        return next(task for task in state.tasks if task.task_id == "own")

    await first.close.aio()
    await agents.distributor("d2")
    await agents.worker("w2", "d2")
    agents.door("t").set()
    moved = await me.result.aio("t", timeout_s=10)
    left = await own()
    await agents.distributor("d1")
    agents.door("own").set()

    async def has_ended() -> bool:
        return (await own()).status.ended

    await until_async(has_ended, "its own distributor goes on with it")
    assert (moved.assigned_to, moved.result) == ("d2/w2", "moved")
    assert not left.status.ended
    assert (await own()).status == "completed"


async def test_a_coordinator_that_restarts_keeps_its_tasks(agents: House) -> None:
    coordinator = await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    me = await agents.client()
    await me.submit.aio(spawn("t", [{"task_id": f"c{n}", "task_type": "wait", "payload": n} for n in range(3)]))
    await runs(agents, "c0")

    await coordinator.close.aio()
    agents.door("c1").set()  # ends while nobody is there to hear of it
    await agents.coordinator()
    for number in (0, 2):
        agents.door(f"c{number}").set()

    assert await me.value.aio("t", timeout_s=10) == [0, 1, 2]


async def test_agents_outlast_a_server_that_has_no_memory_left(full: House, client: Redis) -> None:
    me = await full.client()
    leases = [KEYS.agent.lease, CELL.lease, CELL.worker("w1").lease, CELL.worker("w2").lease]
    await client.config_set("maxmemory", "1")

    async def none_renewed() -> bool:
        return not await client.exists(*leases)

    await until_async(none_renewed, "renewals are refused and all leases have run out")
    await client.config_set("maxmemory", "0")

    async def accepted() -> bool:
        with suppress(TaskRefused):  # until the coordinator has looked again
            await me.submit.aio(add("t", 1, 2))
            return True
        return False

    await until_async(accepted, "there is room for new tasks again")
    assert await me.value.aio("t", timeout_s=10) == 3


async def test_agents_with_nothing_to_do_are_ready_again_when_a_full_server_has_room(
    agents: House, client: Redis
) -> None:
    idle = [await agents.coordinator(), await agents.distributor(), await agents.worker()]
    await client.config_set("maxmemory", "1")
    try:
        await until_async(lambda: all(not agent.condition.ready for agent in idle), "all say that Redis is full")
    finally:
        await client.config_set("maxmemory", "0")

    await until_async(lambda: all(agent.condition.ready for agent in idle), "all are ready")


async def test_what_a_worker_leaves_behind_is_gone_a_day_after_it(full: House, client: Redis) -> None:
    me = await full.client()
    third = await full.worker("w3", capabilities=["here"])
    await me.value.aio(await me.submit.aio(add("t", 1, capabilities=("here",))))

    await third.close.aio()

    left = [key async for key in client.scan_iter("*:worker:w3*")]
    assert left
    assert all([0 < await client.ttl(key) <= 24 * 3600 for key in left]), left


async def test_workers_that_are_long_gone_are_no_longer_listed(agents: House, client: Redis) -> None:
    long_gone, of_another = b"coordinator:k/distributor:d/worker:old", b"coordinator:x/distributor:d/worker:old"
    await client.sadd(ACTIVE, long_gone, of_another)

    await agents.coordinator()

    async def forgotten() -> bool:
        return not await client.sismember(ACTIVE, long_gone)

    await until_async(forgotten, "its address is gone")
    assert await client.sismember(ACTIVE, of_another)
    await agents.distributor()
    assert await client.scard(ACTIVE) == 3


# ---- keys ----


async def test_a_worker_that_has_only_its_own_key_works(agents: House) -> None:
    await agents.coordinator()
    await agents.distributor()
    chain = (Address(Role.COORDINATOR, "k"), Address(Role.DISTRIBUTOR, "d"), Address(Role.WORKER, "w"))
    own = KeyRing.from_secret(SECRET, chain).export()
    await agents.worker("w", a2a_config=signed_as("w", token_secret=None, agent_key=own))
    me = await agents.client()

    await me.submit.aio(add("t", 1, 2))

    assert await me.value.aio("t", timeout_s=10) == 3


async def test_during_a_rotation_agents_with_the_old_and_the_new_secret_work_together(agents: House) -> None:
    both = {"token_secret": SECRET.decode(), "previous_secret": OLD_SECRET}
    await agents.coordinator(a2a_config=signed_as("k", **both))
    await agents.distributor(a2a_config=signed_as("d", **both))
    await agents.worker("new")
    me = await agents.client(**both)

    await me.submit.aio(add("t", 1, 2))

    assert await me.value.aio("t", timeout_s=10) == 3


async def test_a_worker_with_another_secret_gets_nothing_to_do(agents: House) -> None:
    await agents.coordinator()
    distributor = await agents.distributor()
    await agents.worker("stranger", a2a_config=signed_as("stranger", token_secret=OLD_SECRET))
    await until_async(lambda: distributor.loop.inbox.rejected["unknown_key"], "it was refused")

    assert "stranger" not in distributor.state.workers


# ---- limits ----


async def test_a_coordinator_that_is_full_refuses_more(agents: House) -> None:
    await agents.coordinator(config=AgentConfig(heartbeat_s=0.1, failure_timeout_s=1.0, lease_s=1.0, max_open_tasks=2))
    me = await agents.client()

    with pytest.raises(TaskRefused, match="MAX_OPEN_TASKS"):
        await me.submit_many.aio([add(f"t{n}", n) for n in range(3)])
