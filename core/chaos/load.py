"""The load of a run: a client that keeps a bounded number of tasks open, and records its requests and the answers.

It submits a batch whenever another ends. Without an answer it submits the batch again under the same ids, which is
safe, until it is accepted, like the outbox of a program that must not lose an order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.agent_run import RunOptions
from core.chaos.agent_load import AGENTS, AgentLoad
from core.chaos.ledger import Ledger
from core.client.agent_client import AgentClient
from core.errors import TaskLost, TaskRefused, TaskTimeout, WorldError
from core.tasks import Task

__all__ = ["MIX", "Load", "LoadCounts"]

#: The share of each type in percent, and the duration of its tasks in ms. As in practice, most tasks wait, some compute
#: in a child process, and some spawn children. So the calm throughput is limited by the workers' slots, and a machine
#: with two cores can restart agents at the same time.
MIX = {"chaos.work": (75, 100), "chaos.plain": (15, 5), "chaos.delegate": (10, 50)}
BATCH = 20
ANSWER_S = 6.0
RETRY_S = 0.2


@dataclass(slots=True)
class LoadCounts:
    """The progress of the client, in numbers of tasks."""

    submitted: int = 0
    accepted: int = 0
    ended: int = 0
    asked_again: int = 0  #: number of batches that were submitted again

    @property
    def open(self) -> int:
        return self.submitted - self.ended


class Load:
    """Run `run` in an asyncio task. After `stop`, it returns when all tasks have ended."""

    def __init__(
        self,
        client: AgentClient,
        ledger: Ledger,
        *,
        max_open: int,
        seed: int,
        on_end: Callable[[Task], None],
        agents: AgentLoad | None = None,
    ) -> None:
        """`agents`: follows the runs of graphs that are submitted as well; None: there are none."""
        self.counts = LoadCounts()
        self._client = client
        self._ledger = ledger
        self._max_open = max_open
        self._chance = random.Random(seed)
        self._number = 0
        self._on_end = on_end
        self._agents = agents
        self._mix = MIX | AGENTS if agents else MIX
        self._room = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Submits tasks until `stop` is called, and returns when all of them have ended."""
        async with asyncio.TaskGroup() as batches:
            while not self._stopping:
                if self.counts.open + BATCH > self._max_open:
                    self._room.clear()
                    await self._room.wait()
                    continue
                tasks = [self._task() for _ in range(BATCH)]
                self.counts.submitted += BATCH
                batches.create_task(self._carry(tasks))
                await asyncio.sleep(0)

    def stop(self) -> None:
        """Stops submitting new tasks."""
        self._stopping = True
        self._room.set()

    def _task(self) -> Task:
        self._number += 1
        [task_type] = self._chance.choices(list(self._mix), [share for share, _ in self._mix.values()])
        payload = {"number": self._number, "ms": self._mix[task_type][1]}
        run = RunOptions(stream=["updates"]) if task_type in AGENTS else None
        return Task(task_id=f"chaos-{self._number}", task_type=task_type, payload=payload, run=run)

    async def _carry(self, tasks: Sequence[Task]) -> None:
        """Handles one batch, from its submission to the end of its last task."""
        ids = [task.task_id for task in tasks]
        for task_id in ids:
            self._ledger.note("submitted", task_id)
        while not await self._submitted(tasks):
            self.counts.asked_again += 1
            await asyncio.sleep(RETRY_S * self._chance.uniform(0.5, 1.5))
        self.counts.accepted += len(ids)
        for task_id in ids:
            self._ledger.note("accepted", task_id)
        async with asyncio.TaskGroup() as following:
            for task in tasks:
                if self._agents and task.run:
                    following.create_task(self._agents.follow(task.task_id))
            await self._wait(set(ids))

    async def _wait(self, waiting: set[str]) -> None:
        """Records the ends of these tasks, and returns when all have ended."""
        while waiting:
            try:
                async for task in self._client.as_completed(sorted(waiting)):
                    waiting.discard(task.task_id)
                    self._ended(task)
            except TaskLost as error:  # the judge will find that as well
                waiting.difference_update(error.task_ids)
            except WorldError:
                await asyncio.sleep(RETRY_S)

    async def _submitted(self, tasks: Sequence[Task]) -> bool:
        """Submits a batch. Returns whether all its tasks are certainly recorded."""
        try:
            await self._client.submit_many.aio(tasks, ANSWER_S)
        except (WorldError, TaskTimeout, TaskRefused):
            return False
        return True

    def _ended(self, task: Task) -> None:
        self._ledger.note("result", task.task_id, status=task.status.value, result=task.result)
        self.counts.ended += 1
        self._on_end(task)
        self._room.set()
