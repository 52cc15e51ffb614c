"""The memory of a distributor, and what programs ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from core.agents import Health, Subordinate
from core.dispatch_queue import DispatchQueue
from core.langgraph_state import LocalAgentState
from core.roles import Address
from core.step import Call, Drain, HeartbeatDue, Request
from core.tasks import Task

__all__ = [
    "AssignTask", "DistributorEvent", "DistributorRequest", "DistributorState", "HandBack", "RegisterWorker",
    "capacity", "skill_sets", "skills",
]  # fmt: skip

#: A distributor wants this many times what its workers may hold, so that they find the next task waiting.
AHEAD = 2


@dataclass(slots=True)
class DistributorState(LocalAgentState):
    """The memory of a distributor: `local_tasks` are those it has from its coordinator."""

    coordinator: Address = field(kw_only=True)
    failure_timeout_ms: int = 5_000
    queue: DispatchQueue = field(default_factory=DispatchQueue)
    workers: dict[str, Subordinate] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)  #: arrived in this step; written once it is known where they go
    ended: dict[str, None] = field(default_factory=dict)  #: ended tasks that are still shown, oldest first
    max_attempts: dict[str, int] = field(default_factory=dict)  #: by task type, as the workers say
    poison_suspects: set[str] = field(default_factory=set)  #: tasks that a worker has died with
    last_worker: dict[str, str] = field(default_factory=dict)  #: task id -> who failed it last; a retry goes elsewhere
    stranded: dict[tuple[str, ...], int] = field(default_factory=dict)  #: what no worker here can do -> since when (ms)
    looked_ms: int = 0  #: monotonic time of the last look at the workers
    incarnation: int = 0  #: of this distributor
    told_capacity: int = 0  #: what the coordinator was last told
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


@dataclass(frozen=True, slots=True)
class AssignTask(Request[bool]):
    """Request: hand this task to that worker, past the queue. False: no such worker is here, or the task is already."""

    task: Task
    worker_id: str


@dataclass(frozen=True, slots=True)
class RegisterWorker(Request[bool]):
    """Request: that worker belongs to this distributor. True."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class HandBack(Request[None]):
    """Request: give back everything, also what runs."""


#: It has no effects: all that it does is written and said.
DistributorEvent: TypeAlias = Call | Drain | HeartbeatDue
DistributorRequest: TypeAlias = AssignTask | RegisterWorker | HandBack


def capacity(state: DistributorState) -> int:
    """How many tasks it wants to hold, given its workers."""
    return AHEAD * sum(child.window for child in state.workers.values() if child.health is Health.ACTIVE)


def skills(state: DistributorState) -> tuple[str, ...]:
    """What its workers can do, all together."""
    return tuple(sorted({skill for child in state.workers.values() for skill in child.beat.capabilities}))


def skill_sets(state: DistributorState) -> tuple[tuple[str, ...], ...]:
    """What single workers can do, without those that can no more than another; none when one can do it all."""
    kinds = {frozenset(child.beat.capabilities) for child in state.workers.values()}
    best = [skill_set for skill_set in kinds if not any(skill_set < other for other in kinds)]
    return tuple(sorted(tuple(sorted(skill_set)) for skill_set in best)) if len(best) > 1 else ()
