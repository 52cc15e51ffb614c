"""What a distributor remembers, and the requests that programs make to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from core.agents import Health, Subordinate
from core.dispatch_queue import DispatchQueue
from core.langgraph_state import LocalAgentState
from core.roles import Address
from core.status_reports import Kind, Room
from core.step import Call, Drain, HeartbeatDue, Request
from core.strategies import DEFAULT, Strategy, Turns
from core.taking_back import LookBack
from core.tasks import Task
from core.waiting_counts import WaitingFor, counted, unread

__all__ = [
    "AssignTask", "DistributorEvent", "DistributorRequest", "DistributorState", "HandBack", "RegisterWorker",
    "room", "waits",
]  # fmt: skip

#: A distributor asks for this many times the tasks that its workers may hold, so that the next ones are waiting.
AHEAD = 2


@dataclass(slots=True)
class DistributorState(LocalAgentState):
    """The memory of a distributor: `local_tasks` are all tasks in its cell that have not ended."""

    coordinator: Address = field(kw_only=True)
    failure_timeout_ms: int = 5_000
    queue: DispatchQueue = field(default_factory=DispatchQueue)
    workers: dict[str, Subordinate] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)  #: tasks that arrived in this step; they are written at its end
    ended: dict[str, None] = field(default_factory=dict)  #: ended tasks that are still shown, oldest first
    max_attempts: dict[str, int] = field(default_factory=dict)  #: by task type, as the workers report
    poison_suspects: set[str] = field(default_factory=set)  #: tasks that a worker had when it died
    last_worker: dict[str, str] = field(default_factory=dict)  #: task id -> worker of its last attempt, which failed
    avoided_ms: dict[str, int] = field(default_factory=dict)  #: task id -> when that was, the oldest first
    suspected_ms: dict[str, int] = field(default_factory=dict)  #: suspect -> when a worker died with it, oldest first
    stranded: dict[tuple[str, ...], int] = field(default_factory=dict)  #: needs that no worker here meets -> since, ms
    looked_ms: int = 0  #: monotonic time of the last look at the workers
    incarnation: int = 0  #: number of this distributor's start
    told_kinds: tuple[Kind, ...] = ()  #: what the coordinator was last told at once of the workers' room
    look: LookBack = field(default_factory=LookBack)  #: for tasks that wait while workers idle
    asked_for: set[str] = field(default_factory=set)  #: tasks that the coordinator wants back if they have not begun
    strategy: Strategy = DEFAULT  #: by which it chooses its workers
    turns: Turns = field(default_factory=Turns)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


@dataclass(frozen=True, slots=True)
class AssignTask(Request[bool]):
    """Request: hand this task to a worker, past the queue. The answer is False if there is no such worker here, or the
    task is here already; otherwise True."""

    task: Task
    worker_id: str


@dataclass(frozen=True, slots=True)
class RegisterWorker(Request[bool]):
    """Request: record that a worker belongs to this distributor. The answer is True."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class HandBack(Request[None]):
    """Request: give all tasks back, including those that run."""


#: A distributor has no effects: it only writes and sends.
DistributorEvent: TypeAlias = Call | Drain | HeartbeatDue
DistributorRequest: TypeAlias = AssignTask | RegisterWorker | HandBack


def room(state: DistributorState) -> Room:
    """What the distributor tells of its workers: how many tasks it wants to hold, and which."""
    workers = state.workers.values()
    found = kinds(workers)
    return Room(
        capacity=sum(kind.capacity for kind in found),
        agent_capacity=sum(kind.agent_capacity for kind in found),
        agents=tuple(sorted({task_type for child in workers for task_type in child.beat.agents})),
        capabilities=tuple(sorted({skill for child in workers for skill in child.beat.capabilities})),
        kinds=found,
    )


def waits(state: DistributorState) -> dict[str, int]:
    """How many of its tasks wait for what, of those that no worker has, or has read. Those that pause here have failed
    before."""
    counts = counted(state.queue, state.workers.values(), lambda *_: None, draining=state.draining)
    counts[WaitingFor.EXCLUDED_UNTIL] += counts.pop(WaitingFor.NOT_BEFORE, 0)
    counts[WaitingFor.UNREAD] = unread(state.workers.values())
    return {str(reason): count for reason, count in counts.items() if count}


def kinds(workers: Iterable[Subordinate]) -> tuple[Kind, ...]:
    """The workers by their skills. Those that get nothing now count for what they can do, and for no room."""
    alike: dict[tuple[str, ...], list[Subordinate]] = {}
    for child in workers:
        able = alike.setdefault(child.beat.capabilities, [])
        if child.health is Health.ACTIVE:
            able.append(child)
    return tuple(
        Kind(
            skills=skills,
            capacity=AHEAD * sum(child.window for child in able),
            agent_capacity=AHEAD * sum(child.agent_window for child in able),
            concurrency=sum(child.beat.concurrency for child in able),
            agent_concurrency=sum(child.beat.agent_concurrency for child in able if child.beat.agents),
        )
        for skills, able in sorted(alike.items())
    )
