"""The memory of a coordinator, what it asks of its hands, what comes back from them, and what programs ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Raw

from core.agents import Subordinate
from core.dispatch_queue import DispatchQueue
from core.errors import BadTask
from core.langgraph_state import LocalAgentState
from core.reconciliation import Held
from core.server_info import Memory
from core.step import Call, Drain, Effect, Event, HeartbeatDue, Request, Sending
from core.tasks import Task

__all__ = [
    "AssignTask", "Audit", "Audited", "CoordinatorEffect", "CoordinatorEvent", "CoordinatorRequest", "CoordinatorState",
    "DeadLetter", "Fetch", "Fetched", "Found", "NotTaken", "NoteAttempts", "RegisterDistributor", "Submission", "Sweep",
    "TakeOver", "TakenOver",
]  # fmt: skip


@dataclass(slots=True)
class Submission:
    """A message that tasks were submitted with, kept as it was signed."""

    size: int  #: bytes
    opened: int = 0  #: its tasks that are open
    died: int = 0  #: its tasks that are dead letters

    @property
    def held_bytes(self) -> int:
        """What is kept for the sake of dead letters alone."""
        return self.size if self.died and not self.opened else 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A submitted task that failed for good and waits for somebody to look at it."""

    died_ms: int
    size: int  #: bytes of its record
    submission: str | None  #: the message it came with; None: a program handed it in


@dataclass(slots=True)
class CoordinatorState(LocalAgentState):
    """The memory of a coordinator: `local_tasks` are all open tasks."""

    failure_timeout_ms: int = 5_000
    max_open_tasks: int = 200_000
    max_tree_tasks: int = 10_000  #: that may be open below one submitted task
    max_tree_depth: int = 32
    memory_high_water: float = 0.8  #: share of the server's memory above which nothing new is admitted
    memory: Memory = field(default_factory=Memory)  #: of the server, at the last heartbeat
    admitted_bytes: tuple[int, int] = (0, 0)  #: bytes admitted in the previous and the current heartbeat interval
    queue: DispatchQueue = field(default_factory=DispatchQueue)
    distributors: dict[str, Subordinate] = field(default_factory=dict)
    families: dict[str, set[str]] = field(default_factory=dict)  #: waiting task -> its children that are open
    #: tasks whose records are sealed with a key that is not here: they are neither run nor forgotten
    foreign: frozenset[str] = frozenset()
    deserted: list[str] = field(default_factory=list)  #: waiting tasks none of whose children was found open on loading
    trees: dict[str, int] = field(default_factory=dict)  #: submitted task -> how many are open below it, if any
    digests: dict[str, str] = field(default_factory=dict)  #: ended child of an open parent -> sha256 of its record
    deadlines: list[tuple[int, str]] = field(default_factory=list)  #: heap of (ms, task id)
    submissions: dict[str, Submission] = field(default_factory=dict)  #: by entry id
    dead: dict[str, DeadLetter] = field(default_factory=dict)  #: by task id, the oldest first
    dead_bytes: int = 0  #: of their records, and of the messages kept for their sake
    dead_letter_retention_ms: int = 7 * 86_400_000
    moving: set[str] = field(default_factory=set)  #: distributors whose tasks are being taken over
    looked_ms: int = 0  #: monotonic time of the last look at the distributors
    incarnation: int = 0  #: of this coordinator
    unsaved: bool = False  #: a task has changed in this step and its record is to be written at its end
    sweep_due_ms: int = 0
    counts: dict[str, int] = field(default_factory=dict)  #: since the start: accepted, completed, failed, ...

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


@dataclass(frozen=True, slots=True)
class TakeOver(Effect):
    """Effect: take the cell of a distributor that is gone, empty it, and tell how far its tasks were."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class TakenOver(Event):
    """Event: the cell is empty and fenced. `had`: task id -> its record there, if it has had an attempt."""

    distributor_id: str
    had: dict[str, Task]


@dataclass(frozen=True, slots=True)
class NotTaken(Event):
    """Event: the distributor still holds its lease, or Redis was away; it is judged again."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class Audit(Effect):
    """Effect: read which tasks are stored with a distributor, and the number of its heartbeat."""

    distributor_id: str
    probe_ms: int  #: which probe it is for, by its `since_ms`


@dataclass(frozen=True, slots=True)
class Audited(Event):
    """Event: what was found."""

    distributor_id: str
    probe_ms: int
    held: Held


@dataclass(frozen=True, slots=True)
class Fetch(Effect):
    """Effect: read what is stored of these tasks, which a client wants replayed; `reply` is to answer it."""

    reply: Sending
    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What is stored of a task that is to be replayed."""

    task_id: str
    record: bytes | None = None  #: None: there is none
    original: Raw | None = None  #: as its client wrote it; None: that message is not kept
    next_id: str = ""  #: the first id for a replay of it that is not taken
    latest: bytes | None = None  #: the record of the replay before that; None: it was never replayed


@dataclass(frozen=True, slots=True)
class Fetched(Event):
    """Event: what was found."""

    reply: Sending
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Sweep(Effect):
    """Effect: forget tasks that ended before `before_ms`; those in `keep` are inputs of an open parent, or dead
    letters."""

    before_ms: int
    keep: frozenset[str]


@dataclass(frozen=True, slots=True)
class AssignTask(Request[bool | BadTask]):
    """Request: hand this task of `owner` to that distributor. True: it is kept; BadTask: it is not."""

    task: Task
    distributor_id: str
    owner: str


@dataclass(frozen=True, slots=True)
class RegisterDistributor(Request[bool]):
    """Request: that distributor belongs to this coordinator. True."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class NoteAttempts(Request[bool]):
    """Request: write down what the cell of that distributor says of its tasks, before it is emptied. True."""

    distributor_id: str
    had: dict[str, Task]  #: as in TakenOver


CoordinatorEffect: TypeAlias = TakeOver | Audit | Fetch | Sweep
CoordinatorEvent: TypeAlias = TakenOver | NotTaken | Audited | Fetched | Call | Drain | HeartbeatDue
CoordinatorRequest: TypeAlias = AssignTask | RegisterDistributor | NoteAttempts
