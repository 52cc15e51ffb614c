"""Strategies that are changed while agents run, and tasks that are taken back from a worker, over a real server."""

from __future__ import annotations

from typing import Any

import pytest

from core import LoadBalancer, TaskDistributor, TaskPriority
from core.config.settings import RedisConfig
from core.errors import UserError
from core.operations.reader import Reader
from core.operations.scheduling import Scheduling, read_scheduling
from core.redis_backend.keys import CellKeys
from core.redis_client import Wire
from core.roles import Address, Role
from core.status_reports import Beat
from core.tasks import Task
from tests.builders import SECRET
from tests.fleets import StoredFleet
from tests.integration.hierarchy import FAST, house, runs, wait
from tests.redis_server import RedisServer
from tests.waiting import until_async


async def test_a_strategy_that_an_operator_sets_reaches_distributors_and_outlives_both(
    redis_config: RedisConfig,
) -> None:
    async with house(redis_config) as home:
        coordinator, distributor = await home.coordinator(), await home.distributor()
        operator, client = await home.client("operator:op"), await home.client("me")
        reader = Reader(Wire(redis_config))

        async def now() -> Scheduling:
            return await read_scheduling(reader, "k", FAST)

        async def has(strategy: str) -> bool:
            return [room.strategy for room in (await now()).distributors] == [strategy]

        with pytest.raises(UserError, match="only an operator"):
            await client.set_strategy.aio("random")
        with pytest.raises(UserError, match="there is no strategy 'fastest'"):
            await operator.set_strategy.aio("fastest")
        await operator.set_strategy.aio("round_robin")
        await operator.set_strategy.aio("rendezvous", "d")
        await until_async(lambda: has("rendezvous"), "the distributor follows")
        await distributor.close.aio()
        await coordinator.close.aio()
        await home.coordinator()
        await home.distributor()
        found = await now()
        await operator.set_strategy.aio("default", "d")
        await until_async(lambda: has("round_robin"), "the distributor has none of its own any more")
        await reader.close()

    assert (found.strategy, found.own) == ("round_robin", {"d": "rendezvous"})
    assert found.distributors[0].strategy in ("", "rendezvous")


async def test_a_task_that_waits_behind_a_long_one_is_taken_back_for_a_worker_that_joins(
    redis_config: RedisConfig,
) -> None:
    one = FAST.model_copy(update={"concurrency": 1})
    async with house(redis_config) as home:
        await home.coordinator()
        await home.distributor()
        await home.worker("w1", config=one)
        client = await home.client()
        distributor, balancer = TaskDistributor(LoadBalancer(client)), LoadBalancer(client)
        idle = await until_async(lambda: balancer.find_eligible_agents.aio(wait("any")), "the worker is seen")
        assert (idle, await balancer.select_agent.aio(wait("any"), "random")) == (["w1"], "w1")
        await distributor.submit_task.aio(wait("long"), TaskPriority.HIGH)
        await client.submit.aio(wait("short"))
        await runs(home, "long")
        home.door("short").set()

        await home.worker("w2", config=one)
        ended = await client.result.aio("short", 30)
        home.door("long").set()
        long = await client.result.aio("long", 30)

    assert (ended.assigned_to, ended.retry_count, long.assigned_to) == ("d/w2", 1, "d/w1")
    assert long.priority is TaskPriority.HIGH


async def test_a_forecast_counts_runs_of_agents_by_themselves(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    top, cell = Address(Role.COORDINATOR, "k"), Address(Role.DISTRIBUTOR, "d")
    fleet = StoredFleet(redis_server, "k", SECRET.decode())
    both: dict[str, Any] = {
        "capabilities": ("task:add", "task:chat"), "agents": ("chat",), "concurrency": 1, "agent_concurrency": 1,
    }  # fmt: skip
    for name, holding in (("idle", ()), ("runs", ("run-1",)), ("works", ("task-1",)), ("both", ("run-2", "task-2"))):
        held = tuple((task_id, 1) for task_id in holding)
        fleet.add((top, cell, Address(Role.WORKER, name)), Beat(beat=1, holding=held, **both))
    with redis_server.connect() as admin:
        for kind, task_type in (("run", "chat"), ("task", "add")):
            for number in (1, 2):
                stored = Task(task_id=f"{kind}-{number}", task_type=task_type)
                admin.hset(CellKeys("d").actual, stored.task_id, stored.to_json())
    async with house(redis_config) as home:
        balancer = LoadBalancer(await home.client())

        assert await balancer.find_eligible_agents.aio(Task(task_type="chat")) == ["idle", "works"]
        assert await balancer.find_eligible_agents.aio(Task(task_type="add")) == ["idle", "runs"]
