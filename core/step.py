"""The input of a run of a tier's graph, a Batch, and its output, a Step.

A run only decides. Its Step collects what is to be written, sent and done, and none of that has happened before the
step is committed. After a lost connection the same Step, as a value, is committed again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Self, TypeAlias, TypeVar

from msgspec import Raw

from core.a2a_messaging import A2AMessage, MessageType
from core.durations import Duration
from core.errors import PeerError
from core.event_entry import EventRow
from core.event_types import EventLevel, EventType
from core.roles import Action, Address
from core.server_info import Memory
from core.signing import ReplayWindow, Signed
from core.spans import Span
from core.status_reports import Room
from core.tasks import Task
from core.trace_context import TraceContext

__all__ = [
    "Batch", "Call", "Drain", "Effect", "Event", "HeartbeatDue", "Keyed", "Note", "PutAside", "Received", "Request",
    "Sending", "Step", "Table", "Unsealed", "turn_away",
]  # fmt: skip

TYPE_OF_ACTION = {
    Action.SUBMIT_TASK: MessageType.REQUEST,
    Action.WATCH_TASK: MessageType.REQUEST,
    Action.CANCEL_TASK: MessageType.REQUEST,
    Action.REPLAY_TASK: MessageType.REQUEST,
    Action.PURGE_TASK: MessageType.REQUEST,
    Action.ANSWER_QUESTION: MessageType.REQUEST,
    Action.LIST_QUESTIONS: MessageType.REQUEST,
    Action.SET_SCHEDULE: MessageType.REQUEST,
    Action.REMOVE_SCHEDULE: MessageType.REQUEST,
    Action.PAUSE_SCHEDULE: MessageType.REQUEST,
    Action.RESUME_SCHEDULE: MessageType.REQUEST,
    Action.LIST_SCHEDULES: MessageType.REQUEST,
    Action.SET_QUOTA: MessageType.REQUEST,
    Action.SET_STRATEGY: MessageType.REQUEST,
    Action.RETURN_TASK: MessageType.REQUEST,
    Action.ASSIGN_TASK: MessageType.REQUEST,
    Action.TASK_ACCEPTED: MessageType.ACK,
    Action.TASK_RESULT: MessageType.RESPONSE,
    Action.TASK_PROGRESS: MessageType.EVENT,
    Action.AGENT_JOINED: MessageType.EVENT,
    Action.AGENT_LEFT: MessageType.EVENT,
    Action.CAPACITY: MessageType.EVENT,
    Action.BEAT: MessageType.HEARTBEAT,
}
#: Looked up once: in Python 3.11 a member of an enum costs as much as two calls.
DISTRIBUTION = Duration.DISTRIBUTION


class Unsealed(bytes):
    """A record that is stored without a seal, since nothing is decided by it: it shows a task that has ended."""


class Keyed(bytes):
    """An item of a message that goes with the key of what the run of a task tells. The key is added where the message
    is signed; rules have none."""

    task: Task

    @classmethod
    def of(cls, item: bytes, task: Task) -> Self:
        """`item`, an object of JSON with at least one field. `task` names the owner, or has the key that it came
        with."""
        keyed = cls(item)
        keyed.task = task
        return keyed


class Table(StrEnum):
    """The collections that a step can write to. Each belongs to the agent itself, except `wanted`, which belongs to the
    distributor named with it. They map task ids to values, except that `header` maps names of fields, `submissions` ids
    of stream entries, and `schedules` and `quotas` their names. From `heartbeats`, those of its children by agent id, a
    step only removes entries."""

    HEADER = "header"
    TASKS = "tasks"
    OPEN = "open"
    ENDED = "ended"
    DEAD = "dead"
    QUESTIONS = "questions"
    SUBMISSIONS = "submissions"
    SCHEDULES = "schedules"
    QUOTAS = "quotas"
    WEBHOOKS = "webhooks"
    WANTED = "wanted"
    ACTUAL = "actual"
    HEARTBEATS = "heartbeats"


class Event:
    """Something that happened in this process. The events of a tier form a closed union; its `ON_EVENT` handles
    each."""

    __slots__ = ()


class Effect:
    """Something that a tier has to do after the commit. The effects of a tier form a closed union; its `perform`
    handles each."""

    __slots__ = ()


class Received(NamedTuple):
    """A verified message, and the id of its stream entry."""

    sender: Address
    message: A2AMessage
    entry_id: bytes
    signed: Signed | None = None  #: the message as it arrived, for whoever stores it; None: it is a heartbeat
    status: Room | None = None  #: what a child reports about itself: a Beat, or in a `capacity` message a Room

    @property
    def size(self) -> int:
        """The length of its body in bytes; 0 for a heartbeat."""
        return len(self.signed.body) if self.signed else 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that one run takes into account, besides the agent's state."""

    now: datetime  #: by the server's clock, which all agents share
    now_ms: int = field(init=False)  #: `now` in ms since 1970
    mono_ms: int  #: this process's monotonic clock: it measures how long a child has been silent, and is never sent
    messages: Sequence[Received] = ()  #: from the inbox, in order
    beats: Sequence[Received] = ()  #: heartbeats of children that have come since the last batch
    events: Sequence[Event] = ()  #: what happened in this process, such as outcomes of effects and calls of its API
    stored: Mapping[str, bytes] = field(default_factory=dict)  #: records looked up for these messages, by task id
    sent: Mapping[Address, int] = field(default_factory=dict)  #: the last sequence number used, by recipient
    windows: Mapping[str, ReplayWindow] = field(default_factory=dict)  #: the sequence numbers received, by sender

    def __post_init__(self) -> None:
        object.__setattr__(self, "now_ms", int(self.now.timestamp() * 1000))

    @property
    def living_beats(self) -> Iterator[Received]:
        """The heartbeats, without those of agents whose goodbye is in this batch: those were sent before it."""
        left = {goodbye.sender for goodbye in self.messages if goodbye.message.action == Action.AGENT_LEFT}
        return (beat for beat in self.beats if beat.sender not in left)

    def age_ms(self, received: Received) -> int:
        """How long ago a message was signed, in ms. Both times are by the server's clock."""
        return self.now_ms - received.message.metadata.timestamp

    @property
    def beating(self) -> bool:
        """Whether a heartbeat is due, and with it a look at which children have fallen silent."""
        return bool(self.beats) or any(isinstance(event, HeartbeatDue) for event in self.events)

    def taken_from(self, sender: Address) -> int:
        """The highest sequence number received from `sender`, including this batch; 0: none."""
        window = self.windows.get(str(sender))
        return window.highest if window else 0


@dataclass(frozen=True, slots=True)
class Drain(Event):
    """Event: the agent must accept nothing new, and finish or hand back what it has."""


@dataclass(frozen=True, slots=True)
class HeartbeatDue(Event):
    """Event: a heartbeat is due, and with it a look at which children have fallen silent."""

    memory: Memory | None = None  #: the memory of the server, for a coordinator; None: unknown


Answer = TypeVar("Answer")


class Request(Generic[Answer]):
    """A request of the program that holds an agent, and the type of its answer. A tier's `ON_REQUEST` answers each."""

    __slots__ = ()


@dataclass(slots=True)
class Call(Event):
    """Event: the agent's own process makes a request. The step that handles it sets `answer`, which the caller receives
    once that step is committed."""

    request: Request[Any]
    future: Any = None  #: the future on which the caller waits; the graph never touches it
    answer: Any = None


def turn_away(events: Iterable[Event], error: Exception) -> None:
    """Raises `error` in every caller that waits for a call among `events`."""
    for event in events:
        if isinstance(event, Call) and not event.future.done():
            event.future.set_exception(error)


class Sending(NamedTuple):
    """What outgoing items are grouped by: all items of one Sending travel in one message, or in a few if it would be
    too large."""

    recipient: Address
    action: Action
    parent_request_id: str | None = None
    audience: int | None = None  #: the only incarnation of the recipient that may act on it; None: any


#: The value of a field of a log line.
Fact: TypeAlias = str | int | Sequence[str] | None


class Note(NamedTuple):
    """A line for the log and for the agent's recent history."""

    action: str
    facts: Mapping[str, Fact]


class PutAside(NamedTuple):
    """An item that is refused, while the other items of its message are acted on."""

    received: Received
    item: Raw
    error: PeerError


@dataclass(slots=True)
class Step:
    """What one run has decided: the writes and messages of one transaction, and the effects that follow it."""

    #: (table, its owner's id, or "" for the agent's own) -> key -> JSON or a score to put, None to remove
    writes: dict[tuple[Table, str], dict[str, bytes | int | None]] = field(default_factory=lambda: defaultdict(dict))
    sends: dict[Sending, list[bytes]] = field(default_factory=lambda: defaultdict(list))  #: the items, each as JSON
    extras: dict[Sending, dict[str, Any]] = field(default_factory=dict)  #: fields of the payload beside the items
    effects: list[Effect] = field(default_factory=list)  #: in the order in which the tier performs them
    notes: list[Note] = field(default_factory=list)  #: for the log
    #: task id -> its transitions, in order, for the audit trail
    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tells: Set[EventType] = EventLevel.ALL.types  #: of what observers are told
    events: list[EventRow] = field(default_factory=list)  #: what they are told
    told: dict[Address, int] = field(default_factory=dict)  #: bytes of records in its answers, by client
    refused: dict[str, str] = field(default_factory=dict)  #: id of a new task that is not admitted -> the reason
    placed: dict[str, str] = field(default_factory=dict)  #: id of a waiting task -> the child that must get it
    rejected: list[PutAside] = field(default_factory=list)  #: items that go into quarantine
    measured: list[tuple[Duration, int]] = field(default_factory=list)  #: for the metrics, ms
    spans: list[Span] = field(default_factory=list)  #: for traces: what is over with this step
    trace: TraceContext | None = None  #: what its messages as a whole belong to

    def put(self, table: Table, key: str, value: bytes | int, whose: str = "") -> None:
        """Writes a value, as JSON or a score. `whose`: the distributor whose `wanted` it is."""
        self.writes[table, whose][key] = value

    def remove(self, table: Table, key: str, whose: str = "") -> None:
        """Removes a value; nothing happens if there is none."""
        self.writes[table, whose][key] = None

    def send(self, sending: Sending, item: bytes) -> None:
        """Adds an item, as JSON, to the messages of the step."""
        self.sends[sending].append(item)

    def change(self, task_id: str, what: str) -> None:
        """Records a transition of a task for the audit trail. The same transition twice in a row counts once."""
        before = self.changes.get(task_id)
        if before is None:
            self.changes[task_id] = (what,)
        elif before[-1] != what:
            self.changes[task_id] = (*before, what)

    def tell(self, kind: EventType, task: Task, *facts: Any) -> None:
        """Tells observers what has become of a task; `facts` in the order of the fields of that type."""
        if kind in self.tells:
            self.events.append((kind, task.task_id, task.root_id if task.parent_id else None, *facts))

    def tell_of(self, kind: EventType, task_id: str, *facts: Any) -> None:
        """As `tell`, of a task of which only the id is known."""
        if kind in self.tells:
            self.events.append((kind, task_id, None, *facts))

    def tell_agent(self, kind: EventType, agent: Address, *facts: Any) -> None:
        """Tells observers what has become of an agent."""
        if kind in self.tells:
            self.events.append((kind, "", None, str(agent), *facts))

    def refuse(self, task_id: str, reason: str) -> None:
        """Makes a coordinator refuse a new task; its client is told the reason. A node that calls this must run before
        `receive`, otherwise it has no effect."""
        self.refused[task_id] = reason

    def place(self, task_id: str, agent_id: str) -> None:
        """Makes `dispatch` hand a waiting task to this child, even if the child has no room. A task that does not wait
        stays where it is, and so does a task for an unknown child. A node that calls this must run before `dispatch`,
        otherwise it has no effect."""
        self.placed[task_id] = agent_id

    def put_aside(self, received: Received, item: Raw, error: PeerError) -> None:
        """Sends an item into quarantine, with the reason."""
        self.rejected.append(PutAside(received, item, error))

    def note(self, action: str, **facts: Fact) -> None:
        """Adds a line to the log and to the agent's recent history."""
        self.notes.append(Note(action, facts))

    def measure(self, duration: Duration, ms: int) -> None:
        """Adds how long something took to the metrics."""
        self.measured.append((duration, ms))

    def measure_distribution(self, task: Task, now: datetime) -> None:
        """Adds how long a task could have been handed out until it is, as it was before."""
        since = task.updated_at or task.created_at
        if task.not_before is not None:
            since = max(since, task.not_before)
        waited_ms = int((now - since).total_seconds() * 1000)
        self.measured.append((DISTRIBUTION, max(0, waited_ms)))

    @property
    def commits(self) -> bool:
        """Whether there is anything to write or to send."""
        return bool(self.writes or self.sends or self.extras or self.rejected)
