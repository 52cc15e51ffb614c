"""The reports of children about themselves to their parents: their format, limits and validation. No I/O.

A report is parsed once, where it enters. The holder of a single key must not be able to exhaust the parent, so every
text, number and collection has a bound, and validation ends at the first error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from core.a2a_messaging import VERSION
from core.errors import MalformedMessage
from core.roles import Action, Role
from core.tasks import Count, in_words

__all__ = [
    "EXAMPLE_LENGTH", "MAX_CONCURRENCY", "MAX_SKILLS", "Beat", "BeatCounts", "Kind", "Room", "beat_counts_in",
    "beat_in", "names_in", "status_report",
]  # fmt: skip

MAX_CONCURRENCY, MAX_CAPACITY = 10_000, 10**9
MAX_SKILLS = {Role.WORKER: 1_024, Role.DISTRIBUTOR: 16_384}
MAX_SETS, MAX_IN_SETS, MAX_HELD, MAX_CHILDREN = 1_024, 65_536, 20_000, 10_000
EXAMPLE_LENGTH = 255
NONE = Raw(b"[]")

Concurrency = Annotated[int, Meta(ge=0, le=MAX_CONCURRENCY)]
Capacity = Annotated[int, Meta(ge=0, le=MAX_CAPACITY)]
Tries = Annotated[int, Meta(ge=1, le=100)]
Skill = Annotated[str, Meta(max_length=210)]
Skills = Annotated[tuple[Skill, ...], Meta(max_length=MAX_SKILLS[Role.DISTRIBUTOR])]
Percent = Annotated[int, Meta(ge=0, le=100)]
Short = Annotated[str, Meta(max_length=255)]
Counts = Annotated[dict[Short, Count], Meta(max_length=64)]
Facts = Annotated[dict[Short, Count | Short | None], Meta(max_length=32)]


class Kind(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The workers of a distributor that have the same skills: how many tasks it wants for them, and how many they
    run."""

    skills: Skills = ()
    capacity: Capacity = 0  #: the number of tasks that it wants to have at most, besides runs of agents
    agent_capacity: Capacity = 0  #: likewise of runs of agents
    concurrency: Capacity = 0  #: number of tasks that they run at once, besides runs of agents
    agent_concurrency: Capacity = 0  #: number of runs of agents that they have at once


class Room(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of `capacity`: how many tasks a distributor can take, and which."""

    capacity: Capacity = 0  #: the number of tasks that it wants to have at most, given its workers
    agent_capacity: Capacity = 0  #: likewise of attempts at `agents`, which do not count among the others
    agents: Skills = ()  #: the types of tasks that have slots of their own
    capabilities: Skills = ()  #: its skills; for a distributor, those of all its workers together
    #: what a distributor's workers can do and take, by their skills; empty: this agent is of one kind
    kinds: Annotated[tuple[Kind, ...], Meta(max_length=MAX_SETS)] = ()


class Beat(Room, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of a heartbeat, and of `agent_joined`: identity, capacity and progress."""

    beat: Count = 0  #: counts the heartbeats of this incarnation
    concurrency: Concurrency = 0  #: number of attempts that it runs at once, besides those at `agents`
    agent_concurrency: Concurrency = 0  #: number of attempts at `agents` that it runs at once
    #: by task type, the maximal number of attempts of a worker's handler
    attempts: Annotated[dict[Skill, Tries], Meta(max_length=MAX_SKILLS[Role.WORKER])] = {}
    graphs: Skills = ()  #: the types of tasks that are LangGraph graphs, those at `agents` and others
    draining: bool = False
    heard: bool = True  #: whether its parent has accepted its greeting, as far as it knows
    #: (task id, attempt) of each task that a worker has
    holding: Annotated[tuple[tuple[Short, Count], ...], Meta(max_length=MAX_HELD)] = ()
    #: tasks that a distributor has reported as ended and still shows
    ended: Annotated[tuple[Short, ...], Meta(max_length=MAX_HELD)] = ()
    parent_incarnation: Count = 0  #: the incarnation of its parent to which `received` applies
    received: Count = 0  #: the last sequence number that it has read from that incarnation of its parent
    sent: Count = 0  #: the last sequence number that it has sent to its parent
    waits: Counts = {}  #: how many tasks of a distributor wait for what (see waiting_counts)
    running: Count = 0
    queued: Count = 0
    done: Count = 0  #: number of tasks completed here since its start
    failed: Count = 0  #: number of tasks that have failed since its start; for a worker, of attempts
    retried: Count = 0  #: number of attempts that a distributor has repeated since its start
    pid: Count = 0
    host: Short = ""
    region: Short = ""  #: where it is; empty: not said
    weight: Annotated[int, Meta(ge=0, le=MAX_CAPACITY)] = 0  #: its share by weight; 0: by its concurrency
    cpu_percent: Percent = 0  #: of its machine, or on average of its workers' machines
    memory_percent: Percent = 0  #: likewise
    strategy: Short = ""  #: by which a distributor chooses its workers
    #: an example of a task for a worker, as JSON [TYPE, PAYLOAD]; empty: it has none
    example: Annotated[str, Meta(max_length=EXAMPLE_LENGTH)] = ""
    started_ms: Count = 0
    messages: Annotated[dict[Short, Counts], Meta(max_length=16)] = {}  #: sent to | received from its parent, by action
    conflicts: Count = 0  #: number of transactions that it had to send again
    ticks: Count = 0  #: number of turns of its loop since its start
    stalled_ms: Count = 0  #: how long it has had work without progress
    #: a distributor's workers, for `status`
    children: Annotated[dict[Short, Facts], Meta(max_length=MAX_CHILDREN)] = {}


class BeatCounts(Struct, frozen=True, kw_only=True, gc=False):
    """What counts need of a Beat, and no more, since there may be very many. Its fields are those of the same names;
    lists are as they came, since most agents have the same."""

    heard: bool = True
    draining: bool = False
    concurrency: Concurrency = 0
    agent_concurrency: Concurrency = 0
    agents: Raw = NONE
    capabilities: Raw = NONE
    graphs: Raw = NONE
    running: Count = 0
    queued: Count = 0
    done: Count = 0
    failed: Count = 0
    waits: Counts = {}

    @property
    def agent_slots(self) -> int:
        """How many runs of agents it has at once, if it runs any."""
        return 0 if self.agents == NONE else self.agent_concurrency


class _Told(Struct, frozen=True, gc=False):
    timestamp: Count
    version: str


class _Message(Struct, frozen=True, gc=False):
    """The body of a heartbeat, as far as counts need it; see A2AMessage."""

    payload: BeatCounts
    metadata: _Told


_message = msgspec.json.Decoder(_Message).decode
_names = msgspec.json.Decoder(Skills).decode


def names_in(lists: Iterable[bytes]) -> frozenset[str]:
    """The names in lists of a BeatCounts; what is no such list has none."""
    names: set[str] = set()
    for told in lists:
        with suppress(msgspec.DecodeError, RecursionError):
            names.update(_names(told))
    return frozenset(names)


def beat_counts_in(body: bytes) -> tuple[BeatCounts, int] | None:
    """The counts in the body of a heartbeat, and when it was signed, ms; None: it cannot be read. It takes a tenth of
    the time that `A2AMessage.decode` and `beat_in` do, which look at every field."""
    try:
        message = _message(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if message.metadata.version.partition(".")[0] != VERSION:
        return None
    return message.payload, message.metadata.timestamp


#: The actions by which a child reports about itself.
REPORTING: dict[str, type[Room]] = {Action.AGENT_JOINED: Beat, Action.BEAT: Beat, Action.CAPACITY: Room}


def status_report(sender: Role, action: str, payload: Mapping[str, Any]) -> Room | None:
    """The report in a payload: a Beat, or for the action `capacity` a Room; None: the action is no report. Raises
    MalformedMessage, which names the first wrong field, without its value."""
    kind = REPORTING.get(action)
    if kind is None:
        return None
    report = _converted(payload, kind)
    if len(report.capabilities) > MAX_SKILLS[sender] or sum(len(kind.skills) for kind in report.kinds) > MAX_IN_SETS:
        raise MalformedMessage(f"over {MAX_SKILLS[sender]} capabilities, or {MAX_IN_SETS} in sets")
    return report


def beat_in(payload: Mapping[str, Any]) -> Beat:
    """The heartbeat in a payload, whoever sent it. Raises MalformedMessage."""
    report = _converted(payload, Beat)
    assert isinstance(report, Beat)
    return report


def _converted(payload: Mapping[str, Any], kind: type[Room]) -> Room:
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        where, what = in_words(error)
        raise MalformedMessage(f"{where[:80] or 'payload'}: {what[:120]}") from None
