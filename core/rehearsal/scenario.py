"""What users write: what is submitted, and what must hold in the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from core.errors import ConfigError
from core.memory_backend.clock import EPOCH_S
from core.rehearsal.plan import DISASTERS, Happening, Plan, disasters
from core.rehearsal.world import World
from core.tasks import Task

__all__ = ["Rehearsal", "Scenario", "scenario"]

#: Virtual seconds within which everything is submitted, and every fault begins.
MAX_STORM_S = 25.0
STRENGTHS = (0.0, 0.02, 0.05, 0.15)


class Rehearsal:
    """One run, as the function of a scenario sees it: before its `yield` it says what the client does, and after it
    everything has ended."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = Random(f"story {seed}")
        self.length_s = self.chance.uniform(3.0, MAX_STORM_S)  #: how long it may storm
        self.ended: dict[str, Task] = {}  #: after the run: what was submitted and accepted, by id
        self.given: dict[str, Task] = {}  #: what was submitted, as it was then, by id
        self.run: Any = None  #: after the run: a Run, with all that is known of it
        self._asked: list[Happening] = []
        self._count = 0

    def submit(self, task_type: str, payload: Any = None, *, at_s: float | None = None, **fields: Any) -> str:
        """Has the client submit a task, at a moment by chance if none is given. Returns its id, from t1 on. `fields`:
        others of a Task; a `deadline` is in virtual seconds from the start."""
        at_s = self.moment() if at_s is None else at_s
        return self.submit_together([self.task(task_type, payload, at_s, **fields)], at_s)[0]

    def submit_together(self, tasks: list[Task], at_s: float) -> list[str]:
        """Has the client submit tasks in one message. Returns their ids."""
        self._asked.append(Happening(at_s, "submit", tasks=tuple(tasks)))
        return [task.task_id for task in tasks]

    def task(self, task_type: str, payload: Any, at_s: float, **fields: Any) -> Task:
        """A task that is made at that moment."""
        self._count += 1
        if fields.get("deadline") is not None:
            fields["deadline"] = _moment(fields["deadline"])
        made = {"task_id": f"t{self._count}", "created_at": _moment(at_s), **fields}
        task = Task(task_type=task_type, payload=payload, **made)
        self.given[task.task_id] = task
        return task

    def cancel(self) -> None:
        """Has the client ask for the end of one of its tasks, at a moment by chance."""
        self._asked.append(Happening(self.moment(), "cancel", pick=self.chance.random()))

    def moment(self) -> float:
        """A moment of the storm, by chance."""
        return self.chance.uniform(0.0, self.length_s)

    @property
    def asked(self) -> list[Happening]:
        """What the client does."""
        return self._asked


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is rehearsed. `@scenario` makes one of a function."""

    function: Callable[[Rehearsal], Iterator[None] | None]
    name: str
    distributors: int = 2
    workers: int = 2  #: of each distributor
    faults: frozenset[str] = frozenset(DISASTERS)
    strengths: tuple[float, ...] = STRENGTHS  #: shares of struck exchanges, of which the seed takes one
    source: str = ""  #: the file that it is in
    handlers: Callable[[World], Any] | None = None  #: None: all that @task and @agent have registered
    person: Callable[[Any], Coroutine[Any, Any, None]] | None = None  #: acts beside the client, given the Run
    places: Callable[[], Any] = field(default=lambda: None)  #: where they run, see InProcessExecutor

    @property
    def cells(self) -> dict[str, list[str]]:
        """The names of the distributors, and of the workers of each."""
        return {
            f"distributor-{number}": [f"worker-{number}{chr(97 + place)}" for place in range(self.workers)]
            for number in range(1, self.distributors + 1)
        }

    @property
    def agents(self) -> list[str]:
        """All agents, as `role:name`, from the top."""
        cells = self.cells
        below = [f"worker:{name}" for names in cells.values() for name in names]
        return ["coordinator:coordinator-1", *(f"distributor:{name}" for name in cells), *below]

    def plan(self, seed: int) -> Plan:
        """What happens by that seed."""
        rehearsal, _ = self.begin(seed)
        chance = Random(f"faults {seed}")
        drawn = disasters(chance, self.agents, rehearsal.length_s, self.faults)
        happenings = sorted([*rehearsal.asked, *drawn], key=lambda happening: happening.at_s)
        strength = chance.choice(self.strengths)
        return Plan(seed, tuple(happenings), strength, chance.choice([0.0, 0.5]) if strength else 0.0)

    def begin(self, seed: int) -> tuple[Rehearsal, Iterator[None] | None]:
        """Runs its function up to the `yield`. Returns what it said, and what follows."""
        rehearsal = Rehearsal(seed)
        running = self.function(rehearsal)
        if running is not None:
            next(running, None)
        return rehearsal, running


def scenario(
    *, distributors: int = 2, workers: int = 2, faults: Collection[str] = DISASTERS, **more: Any
) -> Callable[[Callable[[Rehearsal], Iterator[None] | None]], Scenario]:
    """Makes a scenario of a function, which submits tasks, yields, and then checks `rehearsal.ended`.

    `workers`: of each distributor. `faults`: the kinds that may happen; with none of them, exchanges do not fail
    either. Raises ConfigError for an unknown kind."""
    if unknown := sorted({*faults} - {*DISASTERS}):
        raise ConfigError(f"no such faults: {', '.join(unknown)}; there are {', '.join(DISASTERS)}")
    if not faults:
        more.setdefault("strengths", (0.0,))

    def made(function: Callable[[Rehearsal], Iterator[None] | None]) -> Scenario:
        source = function.__code__.co_filename
        return Scenario(
            function, function.__name__, distributors, workers, frozenset(faults), source=source, **more
        )  # fmt: skip

    return made


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(EPOCH_S + at_s, UTC)
