"""What a coordinator remembers, its effects and their outcomes, and the requests that programs make to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Raw, Struct

from core.agents import Subordinate
from core.dispatch_queue import DispatchQueue
from core.errors import BadTask
from core.langgraph_state import LocalAgentState
from core.quotas import Usage
from core.reconciliation import Held
from core.schedules import Schedule
from core.server_info import Memory
from core.step import Call, Drain, Effect, Event, HeartbeatDue, Request, Sending
from core.strategies import DEFAULT, Strategy, Turns
from core.taking_back import LookBack
from core.tasks import NULL, Task
from core.trace_starts import TraceStarts

__all__ = [
    "AssignTask", "Audit", "Audited", "CoordinatorEffect", "CoordinatorEvent", "CoordinatorRequest", "CoordinatorState",
    "DeadLetter", "DropThread", "Fetch", "Fetched", "Found", "NotTaken", "NoteAttempts", "RegisterDistributor",
    "Submission", "Sweep", "TakeOver", "TakenOver",
]  # fmt: skip


@dataclass(slots=True)
class Submission:
    """A stored message that submitted tasks, as it was signed."""

    size: int  #: bytes
    opened: int = 0  #: number of its tasks that are open
    died: int = 0  #: number of its tasks that are dead letters

    @property
    def held_bytes(self) -> int:
        """The bytes that are stored only because of dead letters."""
        return self.size if self.died and not self.opened else 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A submitted task that failed for good and waits for somebody to look at it."""

    died_ms: int
    size: int  #: bytes of its record
    submission: str | None  #: id of the message that submitted it; None: a program assigned it


@dataclass(slots=True)
class CoordinatorState(LocalAgentState):
    """The memory of a coordinator: `local_tasks` are all open tasks."""

    failure_timeout_ms: int = 5_000
    max_open_tasks: int = 200_000
    max_tree_tasks: int = 10_000  #: number of tasks that may be open below one submitted task
    max_tree_depth: int = 32
    memory_high_water: float = 0.8  #: share of the server's memory above which nothing new is admitted
    memory: Memory = field(default_factory=Memory)  #: the server's memory at the last heartbeat
    admitted_bytes: tuple[int, int] = (0, 0)  #: bytes admitted in the previous and the current heartbeat interval
    queue: DispatchQueue = field(default_factory=DispatchQueue)
    quotas: dict[str, Usage] = field(default_factory=dict)  #: by name: `tenant:NAME`, `type:TYPE`
    distributors: dict[str, Subordinate] = field(default_factory=dict)
    strategy: Strategy = (
        DEFAULT  #: by which it chooses distributors, and they their workers, unless they have their own
    )
    own_strategies: dict[str, Strategy] = field(default_factory=dict)  #: by distributor
    look: LookBack = field(default_factory=LookBack)  #: for tasks that wait while distributors have idle workers
    turns: Turns = field(default_factory=Turns)
    families: dict[str, set[str]] = field(default_factory=dict)  #: waiting task -> its open children
    #: who may see it (see open_questions) -> tasks with open questions, in the order in which they have asked
    questions: dict[str, dict[str, None]] = field(default_factory=dict)
    expiries: list[tuple[int, str]] = field(default_factory=list)  #: heap of (ms, task id): when a question expires
    schedules: dict[str, Schedule] = field(default_factory=dict)  #: by name
    next_firings: dict[str, int] = field(default_factory=dict)  #: when each is looked at next, ms; paused ones are not
    firings: list[tuple[int, str]] = field(default_factory=list)  #: heap of these, with some that have changed since
    delayed: set[str] = field(default_factory=set)  #: schedules whose firings wait for room
    threads: dict[str, dict[str, None]] = field(default_factory=dict)  #: thread id -> its open runs, in their order
    in_line: int = 0  #: number of runs that wait for an earlier one of their thread
    thread_order: int = 0  #: the highest that was given to a run
    #: tasks whose records are sealed with an unknown key: they are neither run nor deleted
    foreign: frozenset[str] = frozenset()
    deserted: list[str] = field(
        default_factory=list
    )  #: waiting tasks that had nothing to wait for when the state was loaded
    trees: dict[str, int] = field(default_factory=dict)  #: submitted task -> number of open tasks below it, from 1 on
    digests: dict[str, str] = field(default_factory=dict)  #: ended child of an open parent -> sha256 of its record
    deadlines: list[tuple[int, str]] = field(default_factory=list)  #: heap of (ms, task id)
    submissions: dict[str, Submission] = field(default_factory=dict)  #: by entry id
    dead: dict[str, DeadLetter] = field(default_factory=dict)  #: by task id, the oldest first
    dead_bytes: int = 0  #: size of their records, and of the messages that are stored only because of them
    dead_letter_retention_ms: int = 7 * 86_400_000
    retention_ms: int = 3_600_000  #: how long the records of other ended tasks are kept
    moving: set[str] = field(default_factory=set)  #: distributors whose tasks are being taken over
    looked_ms: int = 0  #: monotonic time of the last look at the distributors
    incarnation: int = 0  #: number of this coordinator's start
    told_waiting: bytes = b""  #: what the header says of waiting tasks
    unsaved: bool = False  #: whether records of this step's changed tasks must still be written
    sweep_due_ms: int = 0
    counts: dict[str, int] = field(default_factory=dict)  #: since the start: accepted, completed, failed, ...
    traces: TraceStarts | None = None  #: begins traces; None: nobody here does

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


@dataclass(frozen=True, slots=True)
class TakeOver(Effect):
    """Effect: fence and empty the cell of a distributor that is gone, and report how far its tasks were."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class TakenOver(Event):
    """Event: the cell is fenced and empty. `had`: task id -> its record there, if it has had an attempt."""

    distributor_id: str
    had: dict[str, Task]


@dataclass(frozen=True, slots=True)
class NotTaken(Event):
    """Event: the takeover failed, since the distributor still holds its lease or Redis was away. The distributor is
    judged again."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class Audit(Effect):
    """Effect: read which tasks are stored with a distributor, and the number of its heartbeat."""

    distributor_id: str
    probe_ms: int  #: which probe it is for, by its `since_ms`


@dataclass(frozen=True, slots=True)
class Audited(Event):
    """Event: the outcome of an Audit."""

    distributor_id: str
    probe_ms: int
    held: Held


@dataclass(frozen=True, slots=True)
class Fetch(Effect):
    """Effect: read what is stored about these tasks, which a client wants to replay. `reply` goes to that client."""

    reply: Sending
    task_ids: tuple[str, ...]


class Found(Struct, frozen=True):
    """What is stored about a task that a client wants to replay."""

    task_id: str
    record: bytes | None = None  #: None: there is none
    original: Raw = NULL  #: the task as its client wrote it; null: that message is not stored
    next_id: str = ""  #: the first unused id for a replay of it
    latest: bytes | None = None  #: the record of its latest replay; None: it was never replayed


@dataclass(frozen=True, slots=True)
class Fetched(Event):
    """Event: the outcome of a Fetch."""

    reply: Sending
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Sweep(Effect):
    """Effect: delete the records of tasks whose retention ended before `before_ms`, except those in `keep`, which are
    inputs of an open parent, dead letters, or sealed with an unknown key."""

    before_ms: int
    keep: frozenset[str]


@dataclass(frozen=True, slots=True)
class DropThread(Effect):
    """Effect: let go what is stored of the own thread of a run, since its result is recorded. Until then another
    attempt may have to find that its nodes have finished."""

    thread_id: str


@dataclass(frozen=True, slots=True)
class AssignTask(Request[bool | BadTask]):
    """Request: record this task of `owner` and hand it to a distributor. The answer is True, or BadTask if nothing was
    recorded."""

    task: Task
    distributor_id: str
    owner: str


@dataclass(frozen=True, slots=True)
class RegisterDistributor(Request[bool]):
    """Request: record that a distributor belongs to this coordinator. The answer is True."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class NoteAttempts(Request[bool]):
    """Request: record the attempts that the cell of a distributor knows of, before it is emptied. The answer is
    True."""

    distributor_id: str
    had: dict[str, Task]  #: as in TakenOver


CoordinatorEffect: TypeAlias = TakeOver | Audit | Fetch | Sweep | DropThread
CoordinatorEvent: TypeAlias = TakenOver | NotTaken | Audited | Fetched | Call | Drain | HeartbeatDue
CoordinatorRequest: TypeAlias = AssignTask | RegisterDistributor | NoteAttempts
