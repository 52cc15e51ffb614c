"""What happens to a simulated hierarchy, as a seed will have it, and what must be true in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import orjson

from coordinator.agent import CoordinatorBehaviour
from core.agent_event import AgentEvent
from core.memory_backend.clock import run_virtual
from core.memory_backend.faulty_connection import CALM, Faults
from core.redis_backend.keys import CellKeys, CoordinatorKeys, keys_of
from core.tasks import Task, TaskStatus
from distributor.agent import DistributorBehaviour
from tests.simulation.agents import SimulatedAgent, coordinator, distributor, worker
from tests.simulation.told import told_events, wrongly_told
from tests.simulation.world import COORDINATOR, SimulatedClient, World
from worker.agent import WorkerBehaviour

__all__ = ["Story", "tell"]

DISTRIBUTORS = ("distributor-1", "distributor-2")
WORKERS = tuple((name, f"worker-{name[-1]}{letter}") for name in DISTRIBUTORS for letter in "ab")
#: Virtual seconds: how long it may storm, and how long all that was submitted may take, and what follows from it.
MAX_STORM_S, PATIENCE_S, SETTLED_S = 25.0, 900.0, 60.0
TOP = CoordinatorKeys(COORDINATOR.agent_id)
#: The types of task of a story, and those of one in which somebody is asked.
TYPES, ASKING = ("noop", "noop", "flaky", "tree"), ("noop", "tree", "asker", "asker")


def tell(seed: int) -> Story:
    """Runs the story of that seed to its end. In every fourth of them somebody is asked."""
    story = Story(seed)
    run_virtual(story.run(), seed)
    return story


class Story:
    """One coordinator, two distributors with two workers each, one client, and a storm."""

    def __init__(self, seed: int) -> None:
        cells = [CellKeys(name) for name in DISTRIBUTORS]
        self.world = World(seed, cells, WORKERS)
        self.chance = Random(f"story {seed}")
        self.client = SimulatedClient(self.world)
        self.agents = [
            coordinator(self.world),
            *(distributor(self.world, name) for name in DISTRIBUTORS),
            *(worker(self.world, name, parent) for parent, name in WORKERS),
        ]
        self.log: list[str] = []
        self.cancelled: set[str] = set()
        self.cells_kept = True
        self.types = ASKING if seed % 4 == 3 else TYPES
        self.events: list[AgentEvent] = []  #: all that the agents have told
        self.duration_s = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.TaskGroup() as group:
            supervised = [group.create_task(agent.supervise()) for agent in self.agents]
            if self.types is ASKING:
                supervised.append(group.create_task(self._person()))
            await self._storm()
            self.world.faults = CALM
            await self._until(lambda: not self.client.waits, PATIENCE_S, "the client is told of the end of every task")
            await self._until(lambda: not any(self._left_open()), SETTLED_S, "nothing is left open")
            self.duration_s = loop.time() - began_s
            accepted = {name: task for name, task in self.client.submitted.items() if name not in self.client.refused}
            self.events = told_events(self.world, self.world.problems)
            self.world.problems += [
                *self._left_open(),
                *self._wrong_ends(),
                *wrongly_told(self.events, accepted, cells_kept=self.cells_kept),
            ]
            for task in supervised:
                task.cancel()
            for agent in self.agents:
                agent.kill_for_good()

    # ---- the storm ----

    async def _storm(self) -> None:
        """Everything that is to happen, each at a moment of its own."""
        chance = self.chance
        self.length_s = chance.uniform(3.0, MAX_STORM_S)
        strength = chance.choice([0.0, 0.02, 0.05, 0.15])
        self.world.faults = Faults(**dict.fromkeys(Faults.KINDS, strength / 3), slow=chance.choice([0.0, 0.5]))
        self._note(f"storm of strength {strength} for {self.length_s:.1f} s")
        async with asyncio.TaskGroup() as group:
            for happening in self._happenings():
                group.create_task(happening)

    def _happenings(self) -> Iterator[Coroutine[Any, Any, None]]:
        chance = self.chance
        for number in range(chance.randrange(1, 5)):
            yield self._submit(number)
        for _ in range(chance.choice([0, 0, 3])):
            yield self._cancel()
        for _ in range(chance.choice([0, 0, 2])):
            yield self._repeat()
        yield from self._disasters()

    def _disasters(self) -> Iterator[Coroutine[Any, Any, None]]:
        chance = self.chance
        for _ in range(chance.choice([0, 1, 2, 5])):
            yield self._kill(chance.choice(self.agents))
        if chance.random() < 0.3:
            yield self._lose_for_good(self.agents[2])
        if chance.random() < 0.3:
            yield self._drain(chance.choice(self.agents[1:]))
        if chance.random() < 0.3:
            yield self._cut_off(chance.uniform(1.0, 12.0))
        if chance.random() < 0.3:
            yield self._haunt(chance.choice(self.agents), chance.uniform(4.0, 15.0))
        if chance.random() < 0.2:
            yield self._step_clock(chance.choice([-120.0, -2.0, 2.0, 60.0]))
            return  # a stream that is made anew while the clock is set back begins with ids that are old already
        for _ in range(chance.choice([0, 0, 1, 3])):
            yield self._vandalise()

    async def _some_time(self) -> None:
        await asyncio.sleep(self.chance.uniform(0.0, self.length_s))

    async def _submit(self, number: int) -> None:
        await self._some_time()
        tasks = [self._task(f"t{number}.{index}") for index in range(self.chance.randrange(1, 12))]
        self._note(f"submits {[f'{task.task_id} {task.task_type}' for task in tasks]}")
        self.client.submit(tasks)

    def _task(self, task_id: str) -> Task:
        chance = self.chance
        kind = chance.choice(self.types)
        payload: dict[str, Any] = {"run_s": chance.choice([0.0, 0.0, 0.01, 0.5, 3.0])}
        if kind == "flaky":
            payload["fails"] = chance.choice([1, 2, 99])
        elif kind == "tree":
            payload.update(depth=chance.choice([1, 1, 2]), width=chance.choice([1, 2, 3]))
        elif kind == "asker":
            payload.update(asks=chance.choice([1, 2, 4]))
            if chance.random() < 0.3:
                payload.update(expires_s=chance.uniform(0.5, 8.0))
        deadline = None
        if chance.random() < 0.1:
            deadline = datetime.fromtimestamp(self.world.time() + chance.uniform(0.0, 20.0), UTC)
        return Task(task_id=task_id, task_type=kind, payload=payload, deadline=deadline)

    async def _kill(self, agent: SimulatedAgent) -> None:
        await self._some_time()
        self._note(f"{agent} is killed")
        agent.kill()

    async def _lose_for_good(self, agent: SimulatedAgent) -> None:
        await self._some_time()
        self._note(f"{agent} is gone for good")
        agent.kill_for_good()

    async def _drain(self, agent: SimulatedAgent) -> None:
        await self._some_time()
        self._note(f"{agent} drains")
        agent.drain()

    async def _cut_off(self, seconds: float) -> None:
        await self._some_time()
        self._note(f"nobody reaches the store for {seconds:.1f} s")
        before, self.world.faults = self.world.faults, Faults(cut=1.0)
        await asyncio.sleep(seconds)
        self.world.faults = before

    async def _haunt(self, agent: SimulatedAgent, seconds: float) -> None:
        await self._some_time()
        if not agent.gone:
            self._note(f"{agent} is cut off for {seconds:.1f} s, and replaced meanwhile")
            await agent.haunt(seconds)

    async def _step_clock(self, seconds: float) -> None:
        await self._some_time()
        self._note(f"the clock of the store steps by {seconds:g} s")
        self.world.time.step(seconds)

    async def _vandalise(self) -> None:
        """Somebody deletes what the audits of parents are there to find."""
        await self._some_time()
        agent = self.chance.choice(self.agents[1:])
        keys = [keys_of(agent.chain).inbox, CellKeys(self.chance.choice(DISTRIBUTORS)).actual]
        key = self.chance.choice(keys)
        self._note(f"{key} is deleted")
        self.cells_kept = False
        self.world.store.ask("DEL", key)

    async def _cancel(self) -> None:
        await self._some_time()
        if self.client.submitted:
            task_id = self.chance.choice(list(self.client.submitted))
            self._note(f"asks for the end of {task_id}")
            self.cancelled.add(task_id)
            self.client.cancel(task_id)

    async def _person(self) -> None:
        """Sees now and then what is asked, and answers it: once, or twice, or to what was asked before."""
        chance = self.chance
        seen: list[tuple[str, str, str]] = []
        while True:
            await asyncio.sleep(chance.uniform(0.2, 4.0))
            for task_id in self.world.store.ask("ZRANGE", TOP.questions, 0, -1):
                task = Task.from_json(self.world.store.ask("HGET", TOP.tasks, task_id))
                seen += [(task.task_id, wait.id, wait.digest) for wait in task.waits if wait.is_open_question]
            for task_id, question, digest in chance.sample(seen, min(len(seen), 3)):
                for _ in range(chance.choice([1, 1, 2])):
                    self.client.answer(task_id, question, chance.randrange(3), chance.choice([None, digest]))

    async def _repeat(self) -> None:
        await self._some_time()
        self._note("an old message is posted again")
        self.client.repeat()

    # ---- the end ----

    async def _until(self, condition: Any, limit_s: float, what: str) -> None:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + limit_s
        while not condition():
            if loop.time() > ends_s:
                self.world.problems.append(f"within {limit_s:g} s it did not come true that {what}")
                return
            await asyncio.sleep(0.5)

    def _left_open(self) -> Iterator[str]:
        """What should not be there any more when all has ended."""
        ask = self.world.store.ask
        if open_tasks := ask("ZRANGE", TOP.open, 0, -1):
            yield f"open: {open_tasks}"
        if asking := ask("ZRANGE", TOP.questions, 0, -1):
            yield f"listed as asking: {asking}"
        for name in DISTRIBUTORS:
            if wanted := ask("HGETALL", CellKeys(name).wanted):
                yield f"wanted of {name}: {wanted}"
            for record in ask("HVALS", CellKeys(name).actual):
                if (status := orjson.loads(record).get("status", "pending")) in ("pending", "in_progress"):
                    yield f"actual of {name}: {orjson.loads(record)['task_id']} {status}"
        for agent in self.agents:
            if not agent.gone:
                yield from self._left_in(agent)

    def _left_in(self, agent: SimulatedAgent) -> Iterator[str]:
        if waiting := self.world.store.ask("XLEN", keys_of(agent.chain).inbox):
            yield f"{waiting} messages wait for {agent}"
        if agent.loop is None:
            return
        state = agent.behaviour.state if agent.behaviour else None
        if state is not None and state.local_tasks:
            tasks = [(task.task_id, task.status.value, task.assigned_to) for task in state.local_tasks.values()]
            yield f"{agent} remembers {tasks}"
        behaviour: Any = agent.behaviour
        children: Any = {}
        if isinstance(behaviour, CoordinatorBehaviour):
            children = behaviour.state.distributors
            state = behaviour.state
            if state.families or state.moving or len(state.queue) or state.questions:
                yield f"{agent} waits: {state.families} {state.moving} {state.queue} {state.questions}"
        elif isinstance(behaviour, DistributorBehaviour):
            children = behaviour.state.workers
        elif isinstance(behaviour, WorkerBehaviour) and (behaviour.executor.running or behaviour.executor.queued):
            yield f"{agent} runs {list(behaviour.executor.running)}"
        for name, child in children.items():
            if child.in_flight:
                yield f"{agent} believes {name} has {child.in_flight}"

    def _wrong_ends(self) -> Iterator[str]:
        """Tasks whose record, replies and runs do not fit together."""
        records = self.world.store.ask("HGETALL", TOP.tasks)
        ends = {key.decode(): Task.from_json(record) for key, record in zip(records[::2], records[1::2], strict=True)}
        for task_id, ended in ends.items():
            if not ended.status.ended:
                yield f"the record of {task_id} says {ended.status}"
            if ended.status is TaskStatus.COMPLETED and not self.world.began[task_id]:
                yield f"{task_id} completed, and never ran"
        for task_id, task in self.client.submitted.items():
            if task_id in self.client.refused:
                continue
            if task_id not in ends:
                yield f"{task_id} has no record"
            else:
                yield from self._wrong_end(task, ends[task_id])
        if repeated := {request: times for request, times in self.client.answers.items() if times > 1}:
            yield f"answered more than once: {repeated}"

    def _wrong_end(self, task: Task, ended: Task) -> Iterator[str]:
        told = self.client.results.get(task.task_id, [])
        if len(told) != 1:
            yield f"{len(told)} replies tell of the end of {task.task_id}: {[reply['status'] for reply in told]}"
        elif Task.from_json(orjson.dumps(told[0])) != ended:
            yield f"the reply for {task.task_id} is not its record"
        if task.task_type == "asker":
            yield from self._wrong_answers(task, ended)
        elif ended.status is TaskStatus.COMPLETED and ended.result != (expected := _result(task, ended.attempt)):
            yield f"{task.task_id} completed with {ended.result}, not with {expected}"
        if ended.status is TaskStatus.CANCELLED and task.task_id not in self.cancelled:
            yield f"{task.task_id} was cancelled, and nobody had asked for it"
        if ended.status is TaskStatus.FAILED and task.task_type in ("noop", "asker"):
            yield f"{task.task_id} failed: {ended.error}"

    def _wrong_answers(self, task: Task, ended: Task) -> Iterator[str]:
        """Answers that were lost, or that count without having been taken; or a task that got too few."""
        if ended.status is TaskStatus.COMPLETED and len(ended.result) != task.payload["asks"]:
            yield f"{task.task_id} completed with {ended.result}"
        for number, (answer, *children) in enumerate(self.world.heard.get(task.task_id, ())):
            taken = self.client.taken.get((task.task_id, f"{number}"), [])
            if {answer} != ({*taken} or {"default"}):
                yield f"{task.task_id} was answered {answer!r} to question {number}, where {taken} was taken"
            if children != [1] * (number % 2):
                yield f"{task.task_id} got {children} beside the answer to question {number}"

    def _note(self, text: str) -> None:
        self.log.append(f"{asyncio.get_running_loop().time() - 1000:6.2f}  {text}")


def _result(task: Task, attempt: int) -> Any:
    """What comes out of a task, if it is the attempt that counts whose result was recorded."""
    if task.task_type != "tree":
        return {**task.payload, "attempt": attempt}
    nodes = 1
    for _ in range(task.payload["depth"]):
        nodes = 1 + task.payload["width"] * nodes
    return nodes
