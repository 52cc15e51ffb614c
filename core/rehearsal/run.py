"""One run of a plan, and what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from core.agent_event import AgentEvent
from core.memory_backend.clock import run_virtual
from core.memory_backend.faulty_connection import CALM, Faults
from core.redis_backend.keys import CellKeys, keys_of
from core.rehearsal.agents import SimulatedAgent, coordinator, distributor, worker
from core.rehearsal.client import SimulatedClient
from core.rehearsal.judge import Judge
from core.rehearsal.plan import Happening, Plan
from core.rehearsal.scenario import Rehearsal, Scenario
from core.rehearsal.told import told_events, wrongly_told
from core.rehearsal.trace import Moment
from core.rehearsal.world import Strike, World
from core.tasks import Task

__all__ = ["Outcome", "Run", "run_plan"]

#: Virtual seconds: how long all that was submitted may take, and what follows from it.
PATIENCE_S, SETTLED_S = 900.0, 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    plan: Plan
    problems: list[str]  #: what must not be; empty: all is well
    strikes: list[Strike]  #: the exchanges that failed
    moments: list[Moment]  #: empty if it was not traced
    decisions: frozenset[int]  #: the distinct ones
    executed: int  #: commands of the store
    tasks: int  #: that ended
    duration_s: float  #: virtual


def run_plan(scenario: Scenario, plan: Plan, *, traced: bool = False) -> Outcome:
    """Runs the plan to its end. What is logged as an error counts as a problem."""
    run, bugs = Run(scenario, plan, traced=traced), _Bugs()
    logging.getLogger().addHandler(bugs)
    try:
        run_virtual(run.run(), plan.seed, any_order=True)
    finally:
        logging.getLogger().removeHandler(bugs)
    world = run.world
    return Outcome(
        plan, [*world.problems, *bugs.said], world.strikes, world.trace.moments if world.trace else [],
        frozenset(world.decisions), world.store.executed, run.tasks, run.duration_s,
    )  # fmt: skip


class _Bugs(logging.Handler):
    """Collects what is logged as an error: agents do so only for what must not happen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self.said.append(f"{record.getMessage()}{f': {cause!r}' if cause else ''}")


class Run:
    """The agents of a scenario, one client, and what happens to them."""

    def __init__(self, scenario: Scenario, plan: Plan, *, traced: bool = False) -> None:
        cells = scenario.cells
        workers = [(parent, name) for parent, names in cells.items() for name in names]
        self.plan = plan
        self.world = World(plan.seed, [CellKeys(name) for name in cells], workers, plan.only, traced=traced)
        self.client = SimulatedClient(self.world)
        handlers = scenario.handlers(self.world) if scenario.handlers else None
        everybody = [
            coordinator(self.world),
            *(distributor(self.world, name) for name in cells),
            *(worker(self.world, name, parent, handlers, scenario.places()) for parent, name in workers),
        ]
        self.agents = {str(agent): agent for agent in everybody if str(agent) not in plan.absent}
        self.events: list[AgentEvent] = []  #: all that the agents have told
        self.cancelled: set[str] = set()
        self.cells_kept = True
        self.duration_s = 0.0
        self.tasks = 0
        self.person: Callable[[Run], Any] | None = scenario.person
        self._begun = scenario.begin(plan.seed)
        self._scenario = scenario

    @property
    def rehearsal(self) -> Rehearsal:
        return self._begun[0]

    async def run(self) -> None:
        """Lets it all happen, waits until everything has ended, and judges."""
        judge = Judge(self.world, self.client, list(self._scenario.cells), self.agents.values(), self.cancelled)
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(agent.supervise()) for agent in self.agents.values()]
            if self.person is not None:
                beside.append(group.create_task(self.person(self)))
            await self._storm()
            self.world.faults = CALM
            await self._until(lambda: not self.client.waits, PATIENCE_S, "the client is told of the end of every task")
            await self._until(lambda: not any(judge.left_open()), SETTLED_S, "nothing is left open")
            await asyncio.sleep(max(0.0, self.plan.lasts_s - self.world.now_s))
            self.duration_s = self.world.now_s
            self._look_back(judge)
            for task in beside:
                task.cancel()
            for agent in self.agents.values():
                agent.kill_for_good()

    def _look_back(self, judge: Judge) -> None:
        problems, ends = self.world.problems, judge.ends()
        accepted = {name: task for name, task in self.client.submitted.items() if name not in self.client.refused}
        self.events, self.tasks = told_events(self.world, problems), len(ends)
        problems += [
            *judge.left_open(),
            *judge.wrong_ends(ends),
            *wrongly_told(self.events, accepted, cells_kept=self.cells_kept),
            *self._checked({task_id: ends[task_id] for task_id in accepted if task_id in ends}),
        ]

    def _checked(self, ended: dict[str, Task]) -> Iterator[str]:
        """What the scenario itself finds wrong."""
        rehearsal, running = self._begun
        rehearsal.ended, rehearsal.run = ended, self
        try:
            for _ in running or ():
                pass
        except AssertionError as error:
            yield f"the scenario says: {str(error) or 'an assertion does not hold'}"

    async def _until(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        ends_s = self.world.now_s + limit_s
        while not condition():
            if self.world.now_s > ends_s:
                self.world.problems.append(f"within {limit_s:g} s it did not come true that {what}")
                return
            await asyncio.sleep(0.5)

    # ---- what happens ----

    async def _storm(self) -> None:
        """Everything that is to happen, each at its moment."""
        share = self.plan.strength / 3
        self.world.faults = Faults(**dict.fromkeys(Faults.KINDS, share), slow=self.plan.slow) if share else CALM
        async with asyncio.TaskGroup() as group:
            for happening in self.plan.happenings:
                group.create_task(self._happen(happening))

    async def _happen(self, happening: Happening) -> None:
        await asyncio.sleep(happening.at_s)
        for _ in range(happening.turns):
            await asyncio.sleep(0)
        if not happening.who:
            who = "client:client-1" if happening.kind in ("submit", "cancel") else ""
            self.world.note(who, str(happening)[10:], fault=not who)
            await self._to_the_world(happening)
        elif (agent := self.agents.get(happening.who)) is not None and not agent.gone:
            self.world.note(happening.who, str(happening)[10:], fault=True)
            await self._to_an_agent(happening, agent)

    async def _to_an_agent(self, happening: Happening, agent: SimulatedAgent) -> None:
        match happening.kind:
            case "kill":
                agent.kill()
            case "loss":
                agent.kill_for_good()
            case "drain":
                agent.drain()
            case "replacement":
                await agent.haunt(happening.seconds)
            case "pause":
                await agent.pause(happening.seconds)
            case "partition":
                await agent.partition(happening.seconds)
            case "lease":
                self.world.store.ask("DEL", keys_of(agent.chain).lease)
            case "deletion":
                self._delete_a_key(agent, happening.pick)
            case "outage" | "full":
                await self._to_the_world(happening)

    async def _to_the_world(self, happening: Happening) -> None:
        match happening.kind:
            case "submit":
                self.client.submit(happening.tasks)
            case "cancel" if self.client.submitted:
                task_id = list(self.client.submitted)[int(happening.pick * len(self.client.submitted))]
                self.cancelled.add(task_id)
                self.client.cancel(task_id)
            case "outage":
                before, self.world.faults = self.world.faults, Faults(cut=1.0)
                await asyncio.sleep(happening.seconds)
                self.world.faults = before
            case "full":
                self.world.store.full = True
                await asyncio.sleep(happening.seconds)
                self.world.store.full = False
            case "clock":
                self.world.time.step(happening.seconds)
            case "duplicate":
                self.world.store.post_again(happening.pick)

    def _delete_a_key(self, agent: SimulatedAgent, pick: float) -> None:
        """Somebody deletes what the audits of parents are there to find."""
        cells = list(self._scenario.cells)
        keys = [keys_of(agent.chain).inbox, CellKeys(cells[int(pick * len(cells))]).actual]
        self.cells_kept = False
        self.world.store.ask("DEL", keys[int(pick * 1e6) % 2])
