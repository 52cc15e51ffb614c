"""What a parent knows of a child: capacity, load, and whether it still lives.

A child is judged by its heartbeats alone, on the observer's own monotonic clock: suspect when the heartbeat's sequence
number has not moved for half of the failure timeout, gone when for all of it. Wall clocks are never compared.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from core.roles import Address

__all__ = ["UNKNOWN_RUN_MS", "Beat", "Child", "Health", "excuse", "prefetch_window"]

#: A worker is handed as much beyond its concurrency as it finishes in this time: enough not to run dry while a standby
#: takes its distributor's place, little enough that a long task does not hold others up.
PREFETCH_MS = 180.0
MOST_PREFETCHED = 1024
#: What runs are taken to last before the first ones are known: a window of four times the concurrency. It is where the
#: moving mean begins, too, so that one task of no length, the first after a restart, does not open the window for a
#: thousand, which would then wait at one worker, and be lost with it.
UNKNOWN_RUN_MS = PREFETCH_MS / 3


class Health(StrEnum):
    ACTIVE = "active"
    SUSPECT = "suspect"  #: silent for a while: gets nothing new
    DRAINING = "draining"  #: leaves by its own will: gets nothing new
    GONE = "gone"


class Beat(BaseModel):
    """The payload of a heartbeat, and of `agent_joined`: who it is, what it can take, how far it is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: str = "beat"
    beat: int = 0  #: counts the heartbeats of this incarnation
    concurrency: int = 0  #: attempts it runs at once
    capacity: int = 0  #: tasks it wants to have at most; a distributor's follows from its workers'
    capabilities: tuple[str, ...] = ()  #: what it can do; a distributor: what its workers can, all together
    skill_sets: tuple[tuple[str, ...], ...] = ()  #: what single workers of a distributor can; empty: one can do it all
    attempts: dict[str, int] = Field(default_factory=dict)  #: by task type, how often a worker's handler may be tried
    draining: bool = False
    holding: tuple[tuple[str, int], ...] = ()  #: (task id, attempt) of all a worker has
    ended: tuple[str, ...] = ()  #: tasks a distributor has reported as ended and still shows
    parent_incarnation: int = 0  #: whose messages `received` counts
    received: int = 0  #: the last sequence number it has taken from that incarnation of its parent
    sent: int = 0  #: the last sequence number it has sent to its parent
    running: int = 0
    queued: int = 0
    done: int = 0  #: tasks since its start
    failed: int = 0
    retried: int = 0  #: attempts a distributor has had made again, since its start
    pid: int = 0
    host: str = ""
    started_ms: int = 0
    messages: dict[str, dict[str, int]] = Field(default_factory=dict)  #: sent to | received from its parent, by action
    conflicts: int = 0  #: transactions it had to send again
    ticks: int = 0  #: steps since its start: whether its loop moves
    stalled_ms: int = 0  #: for how long there has been work and none was done
    children: dict[str, dict[str, Any]] = Field(default_factory=dict)  #: a distributor's workers, for `status`


class Probe(NamedTuple):
    """A question to a child's next heartbeats: of these tasks, which do you have?"""

    sent: int  #: the last sequence number sent to it when the question was asked
    tasks: Mapping[str, int]  #: as in Child.in_flight
    since_ms: int  #: observer's monotonic time at which it was asked


class Held(NamedTuple):
    """What was found stored with a distributor, and the number of its heartbeat at that moment."""

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
    in_flight: dict[str, int] = field(default_factory=dict)  #: task id -> which hand-over it was, in their order
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
        """How many more tasks it would begin at once."""
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
        """Only one that drains gives a task back: it gets nothing new unless its next heartbeat says otherwise."""
        self.beat = self.beat.model_copy(update={"draining": True})
        self.health = Health.DRAINING

    def ask(self, sent: int, mono_ms: int, fresh: Container[str] = ()) -> None:
        """Begins a probe, unless one is under way: which of what it has been handed does it have? Not asked after are
        those in `fresh`, handed over in this very step: the message they go by comes after the one numbered `sent`."""
        if self.probe is None and (asked := {one: at for one, at in self.in_flight.items() if one not in fresh}):
            self.probe = Probe(sent, asked, mono_ms)

    def unanswered(self, mono_ms: int, patience_ms: int) -> bool:
        """Whether a probe is so old that the last message to the child, or from it, must have been lost. It ends then:
        say something, which the child answers, and the sequence numbers move on for the next one."""
        if self.probe is None or mono_ms - self.probe.since_ms < patience_ms:
            return False
        self.probe = self.held = None
        return True

    def has_read(self, incarnation: int) -> bool:
        """Whether it has taken all that its parent's `incarnation` had sent when the probe began; and something of it
        at all, before which there may be messages of an earlier one that it has not read."""
        heard = self.beat.parent_incarnation == incarnation
        return heard and self.probe is not None and self.beat.received >= self.probe.sent

    def missing(self, holding: Container[str]) -> list[str]:
        """Ends the probe: the tasks it was handed then, does not hold and has not reported. Their message was lost.

        Sound without comparing clocks, if it had read all that was sent before the probe when it said what it holds,
        and all that it had sent by then has been taken.
        """
        assert self.probe
        asked = self.probe.tasks  # one that has come back since, and was handed over again, is not meant
        lost = [one for one, at in self.in_flight.items() if asked.get(one) == at and one not in holding]
        self.probe = self.held = None
        return lost

    def ran(self, run_ms: float) -> None:
        """Takes a run's duration into the moving mean."""
        self.mean_run_ms = self.mean_run_ms * 0.9 + run_ms * 0.1

    def judge(self, mono_ms: int, failure_timeout_ms: int) -> Health:
        """Its health by now. A child that drains stays so until it is gone."""
        silent_ms = mono_ms - self.moved_ms
        if silent_ms >= failure_timeout_ms:
            return Health.GONE
        if self.beat.draining:
            return Health.DRAINING
        return Health.SUSPECT if silent_ms >= failure_timeout_ms // 2 else Health.ACTIVE


def excuse(children: Iterable[Child], unseen_ms: int, mono_ms: int) -> None:
    """Nobody could be heard for `unseen_ms`, since Redis was away or the observer stood still: that was not silence."""
    for child in children:
        child.moved_ms = min(mono_ms, child.moved_ms + unseen_ms)


def prefetch_window(concurrency: int, mean_run_ms: float) -> int:
    """How many tasks a worker may hold: those it runs, and what it finishes in PREFETCH_MS beyond them."""
    beyond = concurrency * PREFETCH_MS / max(mean_run_ms, 0.05)
    return concurrency + max(1, min(MOST_PREFETCHED - concurrency, int(beyond))) if concurrency else 0
