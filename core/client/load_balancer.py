"""The scheduler of a hierarchy under the names that its first description gave: who may get a task, and who gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from core.agents import Health, Subordinate
from core.candidates import Candidates
from core.client.agent_client import AgentClient
from core.config.sources import load
from core.operations.hierarchy_top import Chain
from core.operations.overview import read_overview
from core.operations.reader import Reader
from core.operations.scheduling import read_scheduling
from core.operations.task_records import read_records
from core.overview import AgentView
from core.redis_backend.keys import CellKeys
from core.roles import Role
from core.room import Needs
from core.runtime.portal import Resident, operation
from core.strategies import CHOOSES, Turns, asks_of, strategy_named
from core.tasks import Priority, Task, skills_needed

__all__ = ["LoadBalancer", "TaskDistributor", "TaskPriority"]

TaskPriority = Priority  #: the same, by its other name


class LoadBalancer(Resident):
    """Tells which workers may get a task, and sets by which strategy they do. The hierarchy itself hands tasks out, so
    what this finds is a forecast from the last heartbeats, and reserves nothing.

    Each call raises TransportDown and ServerRefused."""

    def __init__(self, client: AgentClient) -> None:
        self.client = client

    @operation
    async def find_eligible_agents(self, task: Task) -> list[str]:
        """The ids of the workers that are active, can do the task and would begin it now, by name."""
        return [child.name for child in await self._eligible(task)]

    @operation
    async def select_agent(self, task: Task, strategy: str | None = None) -> str | None:
        """The worker that a strategy chooses among them, by default that of the coordinator; None: there is none.
        Raises UserError: there is no such strategy."""
        if strategy is None:
            strategy = (await self._scheduling())["strategy"]
        choose = CHOOSES[strategy_named(strategy)]
        ready = await self._eligible(task)
        return choose(Candidates(ready), asks_of(task), Turns()).name if ready else None

    @operation
    async def set_strategy(self, strategy: str, distributor_id: str | None = None) -> bool:
        """As AgentClient.set_strategy."""
        return await self.client.set_strategy.aio(strategy, distributor_id)

    @operation
    async def stats(self) -> dict[str, Any]:
        """The strategies, and the room of each distributor, as JSON values."""
        return await self._scheduling()

    async def _scheduling(self) -> dict[str, Any]:
        async with self._reading() as (reader, coordinator_id):
            return (await read_scheduling(reader, coordinator_id)).to_dict()

    async def _eligible(self, task: Task) -> list[Subordinate]:
        async with self._reading() as (reader, coordinator_id):
            found = await read_overview(reader, coordinator_id, load().agent)
            active = [view for view in found.of_role(Role.WORKER) if view.beat and view.health is Health.ACTIVE]
            held = await _held_runs(reader, active)
        needs = asks_of(task).needs
        children = []
        for view in active:
            assert view.beat
            child = Subordinate(view.address, 1, view.beat, 0)
            for task_id, _ in view.beat.holding:
                child.take(task_id, held.get((view.chain, task_id), ()))
            if child.has_slot(needs):
                children.append(child)
        return sorted(children, key=lambda child: child.name)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[Reader, str]]:
        """What reads the hierarchy of the client, and the id of its coordinator."""
        reader = Reader((await self.client._reached()).connection())
        try:
            yield reader, self.client._coordinator.agent_id
        finally:
            await reader.close()


async def _held_runs(reader: Reader, workers: Iterable[AgentView]) -> dict[tuple[Chain, str], Needs]:
    """What the tasks need that workers with agents have, since runs of agents have slots of their own. Heartbeats name
    only their ids, so the records of their distributors are read, one round trip for each of these."""
    by_cell: dict[str, list[tuple[Chain, str]]] = {}
    for worker in workers:
        if worker.beat and worker.beat.agents:
            ids = [(worker.chain, task_id) for task_id, _ in worker.beat.holding]
            by_cell.setdefault(worker.chain[1].agent_id, []).extend(ids)
    held: dict[tuple[Chain, str], Needs] = {}
    for distributor_id, asked in by_cell.items():
        if asked:
            names = [task_id.encode() for _, task_id in asked]
            records = await read_records(reader, CellKeys(distributor_id).actual, names)
            needs = {task.task_id: skills_needed(task) for task in records if isinstance(task, Task)}
            held.update({each: needs[each[1]] for each in asked if each[1] in needs})
    return held


class TaskDistributor(Resident):
    """Submits tasks to be distributed."""

    def __init__(self, load_balancer: LoadBalancer) -> None:
        self.load_balancer = load_balancer

    @operation
    async def submit_task(self, task: Task, priority: Priority | str | None = None) -> str:
        """Submits a task, by default with its own priority; returns its id once the coordinator has recorded it. Raises
        as AgentClient.submit."""
        if priority is not None:
            task = task.evolve(priority=Priority(priority))
        return await self.load_balancer.client.submit.aio(task)
