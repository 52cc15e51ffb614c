"""What goes into a run of a tier's graph, a Batch, and what comes out of it, a Step.

What a run decides is collected in its Step: what is to be written, said and done. Nothing of it has happened until the
step is committed. A step that was committed and one that will be committed again after a lost connection are the same
value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from msgspec import Raw

from core.a2a_messaging import A2AMessage, MessageType
from core.errors import PeerError
from core.roles import Action, Address
from core.server_info import Memory
from core.signing import ReplayWindow, Signed
from core.status_reports import Room

__all__ = [
    "Batch", "Call", "Drain", "Effect", "Event", "HeartbeatDue", "Note", "PutAside", "Received", "Request", "Sending",
    "Step", "Table", "Unsealed", "turn_away",
]  # fmt: skip

TYPE_OF_ACTION = {
    Action.SUBMIT_TASK: MessageType.REQUEST,
    Action.WATCH_TASK: MessageType.REQUEST,
    Action.CANCEL_TASK: MessageType.REQUEST,
    Action.REPLAY_TASK: MessageType.REQUEST,
    Action.PURGE_TASK: MessageType.REQUEST,
    Action.ASSIGN_TASK: MessageType.REQUEST,
    Action.TASK_ACCEPTED: MessageType.ACK,
    Action.TASK_RESULT: MessageType.RESPONSE,
    Action.TASK_PROGRESS: MessageType.EVENT,
    Action.AGENT_JOINED: MessageType.EVENT,
    Action.AGENT_LEFT: MessageType.EVENT,
    Action.CAPACITY: MessageType.EVENT,
    Action.BEAT: MessageType.HEARTBEAT,
}


class Unsealed(bytes):
    """A record that decides nothing, and so is stored without a seal: what is shown of a task that has ended."""


class Table(StrEnum):
    """The collections a step can write to. `wanted` belongs to a distributor, named beside it; the others to the
    agent itself. All map a task id to a value, but for `header`, which maps a field's
    name, `submissions`, an entry id, and `heartbeats`, of its children, which only removes those of the dead."""

    HEADER = "header"
    TASKS = "tasks"
    OPEN = "open"
    ENDED = "ended"
    DEAD = "dead"
    SUBMISSIONS = "submissions"
    WANTED = "wanted"
    ACTUAL = "actual"
    HEARTBEATS = "heartbeats"


class Event:
    """What happened in this process. What a tier is told of is a closed union of these; its `ON_EVENT` takes each."""

    __slots__ = ()


class Effect:
    """What a tier is to do after the commit. What it does is a closed union of these; its `perform` takes each."""

    __slots__ = ()


class Received(NamedTuple):
    """A message that was verified, and where it lay."""

    sender: Address
    message: A2AMessage
    entry_id: bytes
    signed: Signed | None = None  #: as it came, for who keeps it; None: it is a heartbeat
    status: Room | None = None  #: what a child reports about itself: a Beat, or by `capacity` a Room

    @property
    def size(self) -> int:
        """Bytes of its body; 0 for a heartbeat."""
        return len(self.signed.body) if self.signed else 0


@dataclass(frozen=True, slots=True)
class Batch:
    """All that an agent knows at the moment of one run."""

    now: datetime  #: on the server's clock, which all agents share
    now_ms: int = field(init=False)  #: the same
    mono_ms: int  #: this process's monotonic clock: for judging silence, never sent anywhere
    messages: Sequence[Received] = ()  #: from the inbox, in order
    beats: Sequence[Received] = ()  #: children's heartbeats that are new since the last look
    events: Sequence[Event] = ()  #: what happened in this process: outcomes of effects, calls of its API
    stored: Mapping[str, bytes] = field(default_factory=dict)  #: records that were looked up for these messages
    sent: Mapping[Address, int] = field(default_factory=dict)  #: last sequence number used, by recipient
    windows: Mapping[str, ReplayWindow] = field(default_factory=dict)  #: sequence numbers taken, by sender

    def __post_init__(self) -> None:
        object.__setattr__(self, "now_ms", int(self.now.timestamp() * 1000))

    @property
    def living_beats(self) -> Iterator[Received]:
        """The heartbeats, without those of agents whose goodbye is in this batch: they are older than that."""
        left = {goodbye.sender for goodbye in self.messages if goodbye.message.action == Action.AGENT_LEFT}
        return (beat for beat in self.beats if beat.sender not in left)

    def age_ms(self, received: Received) -> int:
        """How long ago it was signed; both times are the server's."""
        return self.now_ms - received.message.metadata.timestamp

    @property
    def beating(self) -> bool:
        """Whether a heartbeat is due: whether to look who has fallen silent."""
        return bool(self.beats) or any(isinstance(event, HeartbeatDue) for event in self.events)

    def taken_from(self, sender: Address) -> int:
        """The highest sequence number taken from `sender`, this batch included; 0: none."""
        window = self.windows.get(str(sender))
        return window.highest if window else 0


@dataclass(frozen=True, slots=True)
class Drain(Event):
    """Event: take nothing new, finish or hand back what there is."""


@dataclass(frozen=True, slots=True)
class HeartbeatDue(Event):
    """Event: a heartbeat is due; look whether somebody has fallen silent."""

    memory: Memory | None = None  #: of the server, for a coordinator; None: not known


Answer = TypeVar("Answer")


class Request(Generic[Answer]):
    """What a program that holds an agent can ask of it, and what comes back; a tier's `ON_REQUEST` answers each."""

    __slots__ = ()


@dataclass(slots=True)
class Call(Event):
    """Event: something asked of the agent by its own process. The step that sees it sets `answer`; the caller is
    told once that step is committed."""

    request: Request[Any]
    future: Any = None  #: where the caller waits; the graph does not touch it
    answer: Any = None


def turn_away(events: Iterable[Event], error: Exception) -> None:
    """Whoever waits for a call among `events` gets `error`."""
    for event in events:
        if isinstance(event, Call) and not event.future.done():
            event.future.set_exception(error)


class Sending(NamedTuple):
    """What messages are grouped by: one message for each, however many items it has."""

    recipient: Address
    action: Action
    parent_request_id: str | None = None
    audience: int | None = None  #: the incarnation of the recipient that it is meant for


#: What a line of the log can say in one of its fields.
Fact: TypeAlias = str | int | Sequence[str] | None


class Note(NamedTuple):
    """A line for the log, and for the agent's recent history."""

    action: str
    facts: Mapping[str, Fact]


class PutAside(NamedTuple):
    """An item of a message that is not acted on, while the others of its message are."""

    received: Received
    item: Raw
    error: PeerError


@dataclass(slots=True)
class Step:
    """What one run asks of the world: first the writes and the sends, in one transaction, then the effects."""

    #: (table, whose) -> key -> JSON or score to put, None to remove
    writes: dict[tuple[Table, str], dict[str, bytes | int | None]] = field(default_factory=lambda: defaultdict(dict))
    sends: dict[Sending, list[bytes]] = field(default_factory=lambda: defaultdict(list))  #: items, each as JSON
    extras: dict[Sending, dict[str, Any]] = field(default_factory=dict)  #: more payload fields
    effects: list[Effect] = field(default_factory=list)  #: for the tier's own hands, in order
    notes: list[Note] = field(default_factory=list)  #: for the log
    #: task id -> what became of it, in order, each with its new status first: for the audit trail
    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    told: dict[Address, int] = field(default_factory=dict)  #: bytes of records that it answers with, by who asked
    refused: dict[str, str] = field(default_factory=dict)  #: new task that is not to be admitted -> why
    placed: dict[str, str] = field(default_factory=dict)  #: waiting task -> the agent below that is to have it
    rejected: list[PutAside] = field(default_factory=list)  #: what goes into quarantine

    def put(self, table: Table, key: str, value: bytes | int, whose: str = "") -> None:
        self.writes[table, whose][key] = value

    def remove(self, table: Table, key: str, whose: str = "") -> None:
        self.writes[table, whose][key] = None

    def send(self, sending: Sending, item: bytes) -> None:
        self.sends[sending].append(item)

    def change(self, task_id: str, what: str) -> None:
        """Notes for the audit trail what became of a task; told twice in a row, it counts once."""
        before = self.changes.get(task_id)
        if before is None:
            self.changes[task_id] = (what,)
        elif before[-1] != what:
            self.changes[task_id] = (*before, what)

    def refuse(self, task_id: str, reason: str) -> None:
        """Has a coordinator not admit a new task; its client is told the reason. Said before `receive`, or in vain."""
        self.refused[task_id] = reason

    def place(self, task_id: str, agent_id: str) -> None:
        """Has `dispatch` hand a task that waits to this agent below, whether or not that has room. A task that does not
        wait stays where it is, and so does one for an agent that nobody knows. Said before `dispatch`, or in vain."""
        self.placed[task_id] = agent_id

    def put_aside(self, received: Received, item: Raw, error: PeerError) -> None:
        """Has an item quarantined, with the reason."""
        self.rejected.append(PutAside(received, item, error))

    def note(self, action: str, **facts: Fact) -> None:
        self.notes.append(Note(action, facts))

    @property
    def commits(self) -> bool:
        """Whether there is anything to write or to say."""
        return bool(self.writes or self.sends or self.extras or self.rejected)
