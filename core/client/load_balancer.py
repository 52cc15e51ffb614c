"""The scheduler of a hierarchy under the names that its first description gave: who may get a task, and who gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from core.agents import Health, Subordinate
from core.candidates import Candidates
from core.client.agent_client import AgentClient
from core.operations.overview import read_overview
from core.operations.reader import Reader
from core.operations.scheduling import read_scheduling
from core.roles import Role
from core.runtime.portal import Resident, operation
from core.strategies import CHOOSES, Turns, asks_of, strategy_named
from core.tasks import Priority, Task

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
            found = await read_overview(reader, coordinator_id)
        needs = asks_of(task).needs
        children = []
        for view in found.of_role(Role.WORKER):
            if view.beat is not None and view.health is Health.ACTIVE:
                child = Subordinate(view.address, 1, view.beat, 0)
                for task_id, _ in view.beat.holding:
                    child.take(task_id)
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
