"""What a parent knows of a child: capacity, load, and whether it still lives.

A child is judged by its heartbeats alone, on the observer's own monotonic clock. It is suspect when the number of its
heartbeat has not moved for half of the failure timeout, and gone after all of it. Wall clocks are never compared.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StringConstraints, ValidationError

from core.errors import MalformedMessage
from core.roles import Action, Address, Role

__all__ = [
    "MOST_SKILLS", "UNKNOWN_RUN_MS", "Beat", "Child", "Health", "Room", "check_told", "excuse", "prefetch_window",
]  # fmt: skip

#: A worker is handed as much beyond its concurrency as it finishes in this time. That is enough not to run dry while a
#: standby replaces its distributor, and little enough that a long task does not hold others up.
PREFETCH_MS = 180.0
MOST_PREFETCHED = 1024
#: The assumed run time before the first runs are known: it gives a window of four times the concurrency. The moving
#: mean also begins here. Otherwise one task of no length, the first after a restart, would open the window for a
#: thousand tasks, which would wait at one worker and be lost with it.
UNKNOWN_RUN_MS = PREFETCH_MS / 3


class Health(StrEnum):
    ACTIVE = "active"
    SUSPECT = "suspect"  #: silent for a while: it gets nothing new
    DRAINING = "draining"  #: leaves of its own accord: it gets nothing new
    UNHEARD = "unheard"  #: acts, but its parent has not accepted what it says
    GONE = "gone"


#: Bounds of what an agent may report about itself, so that the holder of one key can neither fill nor end its listener.
MOST_CONCURRENCY, MOST_CAPACITY = 10_000, 10**9
MOST_SKILLS = {Role.WORKER: 1_024, Role.DISTRIBUTOR: 16_384}
MOST_SETS, MOST_IN_SETS, MOST_HELD, MOST_CHILDREN = 1_024, 65_536, 20_000, 10_000

Count = Annotated[int, Field(ge=0, lt=2**53)]
Concurrency = Annotated[int, Field(ge=0, le=MOST_CONCURRENCY)]
Capacity = Annotated[int, Field(ge=0, le=MOST_CAPACITY)]
Skill = Annotated[str, StringConstraints(max_length=210)]
Skills = Annotated[tuple[Skill, ...], Field(max_length=MOST_SKILLS[Role.DISTRIBUTOR]), FailFast()]
SkillSets = Annotated[tuple[Skills, ...], Field(max_length=MOST_SETS), FailFast()]
Short = Annotated[str, StringConstraints(max_length=255)]
EXAMPLE_LENGTH = 255


def at_most(entries: int) -> BeforeValidator:
    """A bound that is checked first: pydantic counts a dictionary's entries, and its errors, one by one."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > entries:
            raise ValueError(f"over {entries} entries")
        return value

    return BeforeValidator(check)


class Room(BaseModel):
    """The payload of `capacity`: how many tasks a distributor can take, and which."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    capacity: Capacity = 0  #: the most tasks it wants to have; a distributor's follows from those of its workers
    capabilities: Skills = ()  #: what it can do; for a distributor, what its workers can do together
    skill_sets: SkillSets = ()  #: what single workers of a distributor can do; empty: one can do everything


class Beat(Room):
    """The payload of a heartbeat, and of `agent_joined`: identity, capacity and progress."""

    action: str = "beat"
    beat: Count = 0  #: counts the heartbeats of this incarnation
    concurrency: Concurrency = 0  #: attempts it runs at once
    #: by task type, how often a worker's handler may be tried
    attempts: Annotated[dict[Skill, Annotated[int, Field(ge=1, le=100)]], at_most(MOST_SKILLS[Role.WORKER])] = Field(
        default_factory=dict
    )
    draining: bool = False
    heard: bool = True  #: its parent has accepted its greeting, as far as it knows
    #: (task id, attempt) of every task that a worker has
    holding: Annotated[tuple[tuple[Short, Count], ...], Field(max_length=MOST_HELD), FailFast()] = ()
    #: tasks a distributor has reported as ended and still shows
    ended: Annotated[tuple[Short, ...], Field(max_length=MOST_HELD), FailFast()] = ()
    parent_incarnation: Count = 0  #: whose messages `received` counts
    received: Count = 0  #: the last sequence number that it has read from that incarnation of its parent
    sent: Count = 0  #: the last sequence number it has sent to its parent
    running: Count = 0
    queued: Count = 0
    done: Count = 0  #: tasks that were completed here since its start
    failed: Count = 0  #: tasks that have failed; for a worker, attempts
    retried: Count = 0  #: attempts that a distributor has repeated since its start
    pid: Count = 0
    host: Short = ""
    #: a task for a worker that can be submitted as it is, as JSON [TYPE, PAYLOAD]; empty: it knows none
    example: Annotated[str, StringConstraints(max_length=EXAMPLE_LENGTH)] = ""
    started_ms: Count = 0
    #: sent to | received from its parent, by action
    messages: Annotated[dict[Short, Annotated[dict[Short, Count], at_most(64)]], at_most(16)] = Field(
        default_factory=dict
    )
    conflicts: Count = 0  #: transactions that it had to send again
    ticks: Count = 0  #: turns of its loop since it started: whether it moves
    stalled_ms: Count = 0  #: how long there has been work without progress
    #: a distributor's workers, for `status`
    children: Annotated[
        dict[Short, Annotated[dict[Short, Count | Short | None], at_most(32)]], at_most(MOST_CHILDREN)
    ] = Field(default_factory=dict)


#: The actions by which a child reports about itself.
TOLD: dict[str, type[Room]] = {Action.AGENT_JOINED: Beat, Action.BEAT: Beat, Action.CAPACITY: Room}


def check_told(sender: Role, action: str, payload: Mapping[str, Any]) -> None:
    """Checks what a child reports about itself. Raises MalformedMessage, which names the wrong fields."""
    kind = TOLD.get(action)
    if kind is None:
        return
    try:
        told = kind.model_validate(payload)
    except ValidationError as error:
        wrong = sorted({str(one["loc"][0])[:40] if one["loc"] else "all" for one in error.errors(include_input=False)})
        raise MalformedMessage(f"fields that are wrong, or beyond their bounds: {', '.join(wrong)[:200]}") from None
    if len(told.capabilities) > MOST_SKILLS[sender] or sum(map(len, told.skill_sets)) > MOST_IN_SETS:
        raise MalformedMessage(f"over {MOST_SKILLS[sender]} capabilities, or {MOST_IN_SETS} in sets")


class Probe(NamedTuple):
    """A question to a child's next heartbeats: of these tasks, which do you have?"""

    sent: int  #: the last sequence number sent to it when the question was asked
    tasks: Mapping[str, int]  #: as in Child.in_flight
    since_ms: int  #: observer's monotonic time at which it was asked


class Held(NamedTuple):
    """The tasks found stored with a distributor, and the number of its heartbeat at that moment."""

    beat: int
    tasks: frozenset[str]


@dataclass(slots=True)
class Child:
    """One child, as its parent sees it."""

    address: Address
    incarnation: int
    beat: Beat
    moved_ms: int  #: observer's monotonic time at which its heartbeat last moved
    health: Health = Health.ACTIVE
    in_flight: dict[str, int] = field(default_factory=dict)  #: task id -> number of its hand-over, in that order
    handed: int = 0  #: counts the hand-overs
    mean_run_ms: float = UNKNOWN_RUN_MS  #: of its recent tasks
    probe: Probe | None = None
    held: Held | None = None
    skills: tuple[frozenset[str], ...] = ()  #: what its heartbeat says one worker can do; of a distributor, each kind

    @property
    def window(self) -> int:
        """How many tasks it may hold at once."""
        return self.beat.capacity or prefetch_window(self.beat.concurrency, self.mean_run_ms)

    @property
    def free(self) -> int:
        return max(0, self.window - len(self.in_flight)) if self.health is Health.ACTIVE else 0

    @property
    def slots(self) -> int:
        """How many more tasks it would begin immediately."""
        return min(self.free, self.beat.concurrency - len(self.in_flight))

    @property
    def load(self) -> float:
        return len(self.in_flight) / (self.window or 1)

    def take(self, task_id: str) -> None:
        """Notes that it is handed a task."""
        self.handed += 1
        self.in_flight[task_id] = self.handed

    def can(self, needs: tuple[str, ...]) -> bool:
        """Whether it, or one of its workers, has all of these skills."""
        for one in self.skills:  # noqa: SIM110 - asked several times for each task, and `any` costs as much again
            if one.issuperset(needs):
                return True
        return False

    def heard(self, beat: Beat, mono_ms: int) -> None:
        """Takes a heartbeat that moved on from the last one."""
        before = self.beat
        if not self.skills or (beat.capabilities, beat.skill_sets) != (before.capabilities, before.skill_sets):
            self.skills = tuple(frozenset(one) for one in beat.skill_sets or (beat.capabilities,))
        self.beat = beat
        self.moved_ms = mono_ms
        self.health = Health.DRAINING if beat.draining else Health.ACTIVE

    def gave_back(self) -> None:
        """Notes that it gave a task back, so it is draining: it gets nothing new unless its next heartbeat says
        otherwise."""
        self.beat = self.beat.model_copy(update={"draining": True})
        self.health = Health.DRAINING

    def ask(self, sent: int, mono_ms: int, fresh: Container[str] = ()) -> None:
        """Begins a probe, unless one is under way: which of the tasks that were handed to it does it have? Tasks in
        `fresh`, handed over in this very step, are left out: their message comes after the one numbered `sent`."""
        if self.probe is None and (asked := {one: at for one, at in self.in_flight.items() if one not in fresh}):
            self.probe = Probe(sent, asked, mono_ms)

    def unanswered(self, mono_ms: int, patience_ms: int) -> bool:
        """Whether a probe is so old that the last message to the child, or from it, must have been lost. Then the probe
        ends. Send the child a message that it answers: the sequence numbers then move on for the next probe."""
        if self.probe is None or mono_ms - self.probe.since_ms < patience_ms:
            return False
        self.probe = self.held = None
        return True

    def has_read(self, incarnation: int) -> bool:
        """Whether it has read everything that its parent's `incarnation` had sent when the probe began. It must have
        read something from that incarnation, since messages of an earlier one may otherwise still be unread."""
        heard = self.beat.parent_incarnation == incarnation
        return heard and self.probe is not None and self.beat.received >= self.probe.sent

    def missing(self, holding: Container[str]) -> list[str]:
        """Ends the probe and returns the tasks that were lost: handed over then, not held and not reported.

        This needs no clocks. It is sound if the child had read everything sent before the probe when it said what it
        holds, and if everything that it had sent until then has been read.
        """
        assert self.probe
        asked = self.probe.tasks  # a task that came back since, and was handed over again, does not count
        lost = [one for one, at in self.in_flight.items() if asked.get(one) == at and one not in holding]
        self.probe = self.held = None
        return lost

    def ran(self, run_ms: float) -> None:
        """Adds a run's duration, ms, to the mean: an exponentially weighted moving average (EWMA) with alpha 0.1."""
        self.mean_run_ms = self.mean_run_ms * 0.9 + run_ms * 0.1

    def judge(self, mono_ms: int, failure_timeout_ms: int) -> Health:
        """Its health now. A child that drains stays so until it is gone."""
        silent_ms = mono_ms - self.moved_ms
        if silent_ms >= failure_timeout_ms:
            return Health.GONE
        if self.beat.draining:
            return Health.DRAINING
        return Health.SUSPECT if silent_ms >= failure_timeout_ms // 2 else Health.ACTIVE


def excuse(children: Iterable[Child], unseen_ms: int, mono_ms: int) -> None:
    """Forgives `unseen_ms` of silence, in which Redis was away or the observer stood still, so nobody could be
    heard."""
    for child in children:
        child.moved_ms = min(mono_ms, child.moved_ms + unseen_ms)


@lru_cache(maxsize=1024)  # asked several times for each task, and the same while a step hands out
def prefetch_window(concurrency: int, mean_run_ms: float) -> int:
    """How many tasks a worker may hold: those it runs, and those that it finishes in PREFETCH_MS beyond them."""
    beyond = concurrency * PREFETCH_MS / max(mean_run_ms, 0.05)
    return concurrency + max(1, min(MOST_PREFETCHED - concurrency, int(beyond))) if concurrency else 0
