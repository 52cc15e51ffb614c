"""How many commands a hierarchy sends: they are counted in virtual time, so no other load changes the figures."""

from __future__ import annotations

import asyncio

import pytest

from core.config.settings import AgentConfig
from core.memory_backend.clock import run_virtual
from core.redis_backend.keys import CellKeys
from core.rehearsal import agents
from core.rehearsal.agents import coordinator, distributor, worker
from core.rehearsal.client import SimulatedClient
from core.rehearsal.own_handlers import user_code
from core.rehearsal.world import World
from core.tasks import Task

#: Commands per second of a coordinator, a distributor and two workers with nothing to do.
MAX_IDLE_PER_S = 24.0
#: Their commands for a task, while it is the only one. Four of them tell its events.
MAX_PER_TASK = 80.0
SETTLING_S, IDLE_S, TASKS = 20.0, 40.0, 20


async def counted() -> tuple[float, float]:
    """The commands per second while there is nothing to do, and those per task when one follows the other."""
    world = World(1, [CellKeys("d")], [("d", "w1"), ("d", "w2")])
    client = SimulatedClient(world)
    handlers = user_code(world.began, world.heard)
    workers = [worker(world, name, "d", handlers) for name in ("w1", "w2")]
    members = [coordinator(world), distributor(world, "d"), *workers]
    async with asyncio.TaskGroup() as group:
        supervised = [group.create_task(agent.supervise()) for agent in members]
        await asyncio.sleep(SETTLING_S)
        before = world.store.executed
        await asyncio.sleep(IDLE_S)
        idle, before = world.store.executed - before, world.store.executed
        for _ in range(TASKS):
            client.submit([Task(task_type="noop", payload={"run_s": 0})])
            while client.waits:  # noqa: ASYNC110 - virtual time passes at once
                await asyncio.sleep(0.001)
        busy = world.store.executed - before
        for agent in members:
            agent.kill_for_good()
        for task in supervised:
            task.cancel()
    assert not world.problems
    return idle / IDLE_S, busy / TASKS


def test_agents_send_little_beside_their_heartbeats_and_for_a_task_what_its_five_commits_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents, "CONFIG", AgentConfig())

    idle_per_s, per_task = run_virtual(counted(), seed=1)

    assert idle_per_s <= MAX_IDLE_PER_S
    assert per_task <= MAX_PER_TASK
