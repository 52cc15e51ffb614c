"""Budgets in a hierarchy whose graphs call a model: what is exhausted is given up, and keeps what it has done."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import task_life
from core.budget import Budget
from core.checkpoints import RedisSaver
from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.operations.reader import reading
from core.operations.task_tree import Branch, read_tree
from core.redis_backend.keys import CoordinatorKeys
from core.tasks import Task
from tests.integration import spending_user_graphs
from tests.integration.hierarchy import FAST, House, is_empty
from tests.waiting import until_async
from worker.authoring.handlers import HANDLERS
from worker.authoring.registry import Handlers

# What is counted on the server is tested on every kind of it elsewhere.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")


@pytest.fixture
async def client_of_agents(agents: House, monkeypatch: pytest.MonkeyPatch) -> AgentClient:
    monkeypatch.setattr(task_life, "SWEEP_EVERY_MS", 200)
    handlers = Handlers()
    for handler in HANDLERS:
        if handler.module == spending_user_graphs.__name__:
            handlers.add(handler)
    await agents.coordinator(config=FAST.model_copy(update={"retention_s": 1}))
    await agents.distributor()
    config = FAST.model_copy(update={"agent_concurrency": 1, "hosts": 1})
    await agents.worker(handlers=handlers, modules=[spending_user_graphs.__name__], config=config)
    return await agents.client()


async def tree(redis: RedisConfig, task_id: str) -> dict[str, Branch]:
    async with reading(redis) as reader:
        return {branch.task_id: branch for branch in await read_tree(reader, "k", task_id)}


async def ended(client: AgentClient, task_type: str, budget: Budget | None, times: int = 3) -> Task:
    task = Task(task_type=task_type, payload={"times": times, "said": []}, budget=budget)
    return await client.result.aio(await client.submit.aio(task), 30)


async def test_runs_spend_until_nothing_is_left(
    client_of_agents: AgentClient, client: Any, redis_config: RedisConfig
) -> None:
    for task_type in ("spends", "spends_in_a_coroutine"):
        given_up = await ended(client_of_agents, task_type, Budget(calls=2))
        assert (given_up.status, given_up.error and given_up.error.type) == ("abandoned", "budget")
        assert given_up.error is not None
        assert given_up.error.message == f"the budget of task {given_up.task_id!r} is spent: 2 of 2 calls"
        assert len(given_up.errors) == 1  # no other attempt was made
        async with RedisSaver(redis_config) as saver:
            state = await saver.aget_tuple({"configurable": {"thread_id": given_up.task_id}})
        assert state is not None
        assert len(state.checkpoint["channel_values"]["said"]) == 2
        branch = (await tree(redis_config, given_up.task_id))[given_up.task_id]
        assert branch.error == "budget"
        # The model counts the words that it is told and says.
        assert (branch.spent, branch.left) == ({"calls": 2, "tokens": 16, "cost_usd": 0}, {"calls": 0})

    assert (await ended(client_of_agents, "spends", None)).status == "completed"
    blocked = await ended(client_of_agents, "blocks", Budget(calls=2))
    assert blocked.error is not None
    assert "await model.ainvoke(...)" in blocked.error.message

    async def deleted() -> bool:
        return await is_empty(client, CoordinatorKeys("k").budgets)

    dead = await client.zrange(CoordinatorKeys("k").dead, 0, -1)
    for task_id in dead:
        await client_of_agents.purge_dead_letter.aio(task_id.decode())
    await until_async(deleted, "what was counted goes with the tasks")


async def test_calls_that_wait_for_a_budget_keep_none_from_settling(client_of_agents: AgentClient) -> None:
    """The first one holds all tokens that are left, and so does each that follows. The host has 33 threads."""
    done = await ended(client_of_agents, "spends_at_once", Budget(tokens=1000), times=40)
    assert (done.status, len(done.result["said"])) == ("completed", 40)


async def test_what_a_host_had_reserved_when_it_died_is_spent_and_nobody_waits_for_it(
    client_of_agents: AgentClient,
) -> None:
    boss = await ended(client_of_agents, "plans_after_a_death", Budget(tokens=1000))
    assert boss.result["said"] == ["failed", "budget"]


async def test_those_below_spend_of_the_whole_and_of_their_share(
    client_of_agents: AgentClient, redis_config: RedisConfig
) -> None:
    boss = await ended(client_of_agents, "plans", Budget(calls=4, tokens=1000))

    assert boss.result["said"][0] == ["abandoned", "completed"]
    told = await tree(redis_config, boss.task_id)
    root, shared, free = (told[name] for name in (boss.task_id, "shared", "free"))
    assert root.spent is not None
    assert (root.spent["calls"], root.left and root.left["calls"]) == (4, 0)
    assert (shared.status, shared.error) == ("abandoned", "budget")
    assert shared.spent == {"calls": 1, "tokens": 8, "cost_usd": 0}
    assert (free.spent, free.left) == (None, root.left)
