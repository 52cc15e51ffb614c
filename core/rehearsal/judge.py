"""What must be true when everything has ended, whatever happened before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from core.redis_backend.keys import CellKeys, CoordinatorKeys, keys_of
from core.rehearsal.agents import SimulatedAgent
from core.rehearsal.client import SimulatedClient
from core.rehearsal.world import COORDINATOR, World
from core.roles import Role
from core.tasks import Task, TaskStatus

__all__ = ["Judge"]

TOP = CoordinatorKeys(COORDINATOR.agent_id)


class Judge:
    """Looks at the store, at what agents remember, and at what the client was told."""

    def __init__(
        self,
        world: World,
        client: SimulatedClient,
        cells: Sequence[str],
        agents: Iterable[SimulatedAgent],
        cancelled: set[str],
    ) -> None:
        self._world = world
        self._client = client
        self._cells = cells
        self._agents = list(agents)
        self._cancelled = cancelled

    def left_open(self) -> Iterator[str]:
        """What should not be there any more when all has ended."""
        ask = self._world.store.ask
        if open_tasks := ask("ZRANGE", TOP.open, 0, -1):
            yield f"open: {open_tasks}"
        if asking := ask("ZRANGE", TOP.questions, 0, -1):
            yield f"listed as asking: {asking}"
        for name in self._cells:
            if wanted := ask("HGETALL", CellKeys(name).wanted):
                yield f"wanted of {name}: {wanted}"
            for record in ask("HVALS", CellKeys(name).actual):
                if (status := orjson.loads(record).get("status", "pending")) in ("pending", "in_progress"):
                    yield f"actual of {name}: {orjson.loads(record)['task_id']} {status}"
        for agent in self._agents:
            if not agent.gone:
                yield from self._left_in(agent)

    def _left_in(self, agent: SimulatedAgent) -> Iterator[str]:
        if waiting := self._world.store.ask("XLEN", keys_of(agent.chain).inbox):
            yield f"{waiting} messages wait for {agent}"
        if agent.loop is None or agent.behaviour is None:
            return
        behaviour: Any = agent.behaviour
        state, role, children = behaviour.state, agent.chain[-1].role, {}
        if state.local_tasks:
            tasks = [(task.task_id, task.status.value, task.assigned_to) for task in state.local_tasks.values()]
            yield f"{agent} remembers {tasks}"
        if role is Role.COORDINATOR:
            children = state.distributors
            if state.families or state.moving or len(state.queue) or state.questions:
                yield f"{agent} waits: {state.families} {state.moving} {state.queue} {state.questions}"
        elif role is Role.DISTRIBUTOR:
            children = state.workers
        elif behaviour.executor.running or behaviour.executor.queued:
            yield f"{agent} runs {list(behaviour.executor.running)}"
        for name, child in children.items():
            if child.in_flight:
                yield f"{agent} believes {name} has {child.in_flight}"

    def ends(self) -> dict[str, Task]:
        """The stored records of all tasks, by id."""
        records = self._world.store.ask("HGETALL", TOP.tasks)
        return {key.decode(): Task.from_json(record) for key, record in zip(records[::2], records[1::2], strict=True)}

    def wrong_ends(self, ends: Mapping[str, Task]) -> Iterator[str]:
        """Tasks whose record and replies do not fit together."""
        for task_id, ended in ends.items():
            if not ended.status.ended:
                yield f"the record of {task_id} says {ended.status}"
        for task_id in self._client.submitted:
            if task_id in self._client.refused:
                continue
            if task_id not in ends:
                yield f"{task_id} has no record"
            else:
                yield from self._wrong_end(ends[task_id])
        if repeated := {request: times for request, times in self._client.answers.items() if times > 1}:
            yield f"answered more than once: {repeated}"

    def _wrong_end(self, ended: Task) -> Iterator[str]:
        told = self._client.results.get(ended.task_id, [])
        if len(told) != 1:
            yield f"{len(told)} replies tell of the end of {ended.task_id}: {[reply['status'] for reply in told]}"
        elif Task.from_json(orjson.dumps(told[0])) != ended:
            yield f"the reply for {ended.task_id} is not its record"
        if ended.status is TaskStatus.CANCELLED and ended.task_id not in self._cancelled:
            yield f"{ended.task_id} was cancelled, and nobody had asked for it"
