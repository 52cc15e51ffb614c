"""What a parent knows of a child: capacity, load, and whether it still lives.

A child is judged by its heartbeats alone, on the observer's own monotonic clock. It is suspect when the number of its
heartbeat has not moved for half of the failure timeout, and gone after all of it. Wall clocks are never compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from msgspec.structs import replace

from core.reconciliation import Probe
from core.roles import Address
from core.room import Counts, Needs, skill_sets
from core.status_reports import Beat, Kind

__all__ = ["UNKNOWN_RUN_MS", "Health", "Pace", "Subordinate", "discount_silence", "prefetch_window"]

#: A worker is handed as much beyond its concurrency as it finishes in this time. That is enough not to run dry while a
#: standby replaces its distributor, and little enough that a long task does not hold others up.
PREFETCH_MS = 180.0
MAX_PREFETCHED = 1024
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


#: Looked up once, since CPython 3.11 takes as long for a member of an enum as for two calls.
ACTIVE = Health.ACTIVE


@dataclass(slots=True)
class Pace:
    """How long tasks take, as a moving mean. Workers with the same skills share it, so that they may hold equally many:
    otherwise the first to report short runs would be handed what is left of a burst."""

    mean_run_ms: float = UNKNOWN_RUN_MS

    def ran(self, run_ms: float) -> None:
        """Adds a run's duration, ms: an exponentially weighted moving average (EWMA) with alpha 0.1."""
        self.mean_run_ms = self.mean_run_ms * 0.9 + run_ms * 0.1


#: A number for each kind: of other tasks, and of runs of agents.
Limits = tuple[Sequence[int], Sequence[int]]
#: At no mean run in ms, no number for any kind.
UNPACED: tuple[float, Sequence[int]] = (math.nan, ())


@dataclass(slots=True)
class Subordinate:
    """One child, as its parent sees it. Runs of agents have slots of their own, and are counted by themselves."""

    address: Address
    incarnation: int
    beat: Beat
    moved_ms: int  #: observer's monotonic time at which its heartbeat last moved
    health: Health = Health.ACTIVE
    in_flight: dict[str, int] = field(default_factory=dict)  #: task id -> number of its hand-over, in that order
    handed: int = 0  #: counts the hand-overs
    pace: Pace = field(default_factory=Pace)  #: of a worker's tasks
    probe: Probe = field(default_factory=Probe)  #: which of the tasks in flight have not arrived
    needs: dict[str, Needs] = field(default_factory=dict)  #: the skills that each task in flight needs
    kinds: tuple[Kind, ...] = ()  #: what its workers can do and take; a worker is of one kind
    tasks: Counts = field(
        default_factory=lambda: Counts(skill_sets(())), compare=False
    )  #: its tasks by kind, besides runs of agents
    runs: Counts = field(default_factory=lambda: Counts(skill_sets(())), compare=False)  #: its runs of agents by kind
    _hosted: frozenset[str] = frozenset()  #: the types of those runs, as skills
    _at_once: Limits = ((), ())  #: how many each kind runs at once
    _slots: Limits = ((), ())  #: of these, how many it may have
    #: a mean run in ms, and how many tasks each kind may have with it
    _paced: tuple[float, Sequence[int]] = field(default=UNPACED, compare=False)

    def __post_init__(self) -> None:
        self.learn(self.beat)

    @property
    def name(self) -> str:
        return self.address.agent_id

    @property
    def window(self) -> int:
        """How many tasks it may hold at once, besides runs of agents."""
        return sum(self._windows(agents=False))

    @property
    def agent_window(self) -> int:
        """How many runs of agents it may hold at once: a worker no more than it begins, since a run may wait for
        long."""
        return sum(self._windows(agents=True)) if self._hosted else 0

    @property
    def free(self) -> int:
        """How many more tasks it may get, besides runs of agents."""
        if self.health is not ACTIVE:
            return 0
        rooms = zip(self._windows(agents=False), self.tasks.held, strict=True)
        return sum(max(0, window - held) for window, held in rooms)

    def idle_slots(self, agents: bool) -> int:
        """How many more runs of agents, or other tasks, it would begin at once."""
        if self.health is not ACTIVE or (agents and not self._hosted):
            return 0
        slots = zip(self._slots[agents], self._counts(agents).held, strict=True)
        return sum(max(0, slot - held) for slot, held in slots)

    def behind(self, agents: bool) -> int:
        """How many runs of agents, or other tasks, wait there behind those that have slots."""
        return max(0, sum(self._counts(agents).held) - sum(self._at_once[agents]))

    @property
    def share(self) -> float:
        """The share of its windows that is in use, by runs of agents or by other tasks: the larger one."""
        tasks, runs = sum(self.tasks.held) / (self.window or 1), sum(self.runs.held) / (self.agent_window or 1)
        return max(tasks, runs)

    @property
    def weight(self) -> int:
        """Its share by weight: what it says, or how much it does at once; at least 1."""
        return self.beat.weight or sum(kind.concurrency + kind.agent_concurrency for kind in self.kinds) or 1

    def has_room(self, needs: Needs) -> bool:
        """Whether it may get one more task that needs these skills, even if that has to wait there."""
        if self.health is not ACTIVE:
            return False
        if self._hosted and self.hosts(needs):
            return self.runs.fits(needs, self._windows(agents=True))
        return self.tasks.fits(needs, self._windows(agents=False))

    def has_slot(self, needs: Needs) -> bool:
        """Whether it may get one more task that needs these skills, and would begin it immediately."""
        if self.health is not ACTIVE:
            return False
        if self._hosted and self.hosts(needs):
            return self.runs.fits(needs, self._slots[True])
        return self.tasks.fits(needs, self._slots[False])

    def certain_room(self, needs: Needs, *, at_once: bool) -> int:
        """How many more tasks that need these skills it may certainly get, and with `at_once` would begin
        immediately. Each task that it gets takes one at most."""
        agents = self.hosts(needs)
        return self._counts(agents).room(needs, self._slots[agents] if at_once else self._windows(agents))

    def load(self, needs: Needs) -> float:
        """How many tasks its workers that can do this have, relative to how many they run at once."""
        if self._hosted and self.hosts(needs):
            return self.runs.load(needs, self._at_once[True])
        return self.tasks.load(needs, self._at_once[False])

    def take(self, task_id: str, needs: Needs = ()) -> None:
        """Notes that it is handed a task, which needs these skills."""
        self.handed += 1
        self.in_flight[task_id] = self.handed
        self.needs[task_id] = needs
        self._count(needs)

    def drop(self, task_id: str) -> None:
        """Notes that it does not have a task any more."""
        if self.in_flight.pop(task_id, None) is not None:
            needs = self.needs.pop(task_id)
            (self.runs if self._hosted and self.hosts(needs) else self.tasks).remove(needs)

    def hosts(self, needs: Needs) -> bool:
        """Whether a task that needs these skills is a run of an agent here. `needs`: as `skills_needed` gives them."""
        return bool(needs) and needs[0] in self._hosted

    def is_run(self, task_id: str) -> bool:
        """Whether a task in flight is a run of an agent."""
        return bool(self._hosted) and self.hosts(self.needs.get(task_id, ()))

    def can(self, needs: Needs) -> bool:
        """Whether it, or one of its workers, has all of these skills."""
        return bool(self.tasks.able[needs])

    def update(self, beat: Beat, mono_ms: int) -> None:
        """Takes a heartbeat that moved on from the last one."""
        self.learn(beat)
        self.moved_ms = mono_ms
        self.health = Health.DRAINING if beat.draining else Health.ACTIVE

    def learn(self, beat: Beat) -> None:
        """Takes what a heartbeat says of skills and room. What it has is counted anew when its kinds have changed."""
        before, self.beat, self._paced = [kind.skills for kind in self.kinds], beat, UNPACED
        kinds = self.kinds = beat.kinds or (_only_kind(beat),)
        self._at_once = [kind.concurrency for kind in kinds], [kind.agent_concurrency for kind in kinds]
        self._slots = (
            [min(kind.concurrency, kind.capacity or kind.concurrency) for kind in kinds],
            [min(kind.agent_concurrency, kind.agent_capacity or kind.agent_concurrency) for kind in kinds],
        )
        hosted = frozenset(f"task:{task_type}" for task_type in beat.agents)
        if before != [kind.skills for kind in self.kinds] or hosted != self._hosted:
            self._hosted = hosted
            skills = skill_sets(kind.skills for kind in kinds)
            self.tasks, self.runs = Counts(skills), Counts(skills)
            for needs in self.needs.values():
                self._count(needs)

    def _count(self, needs: Needs) -> None:
        agents = bool(self._hosted) and self.hosts(needs)
        counts = self.runs if agents else self.tasks
        if len(self.kinds) == 1:
            counts.held[0] += 1
        else:
            counts.add(needs, self._slots[agents], self._windows(agents))

    def _counts(self, agents: bool) -> Counts:
        return self.runs if agents else self.tasks

    def _windows(self, agents: bool) -> Sequence[int]:
        """How many runs of agents, or other tasks, each kind may have."""
        if agents:
            return [kind.agent_capacity or kind.agent_concurrency for kind in self.kinds]
        mean_run_ms = self.pace.mean_run_ms
        at_pace_ms, windows = self._paced
        if at_pace_ms != mean_run_ms:  # it is asked several times for each task
            windows = [kind.capacity or prefetch_window(kind.concurrency, mean_run_ms) for kind in self.kinds]
            self._paced = mean_run_ms, windows
        return windows

    def mark_draining(self) -> None:
        """Notes that it gave a task back, so it is draining: it gets nothing new unless its next heartbeat says
        otherwise."""
        self.beat = replace(self.beat, draining=True)
        self.health = Health.DRAINING

    def judge(self, mono_ms: int, failure_timeout_ms: int) -> Health:
        """Its health now. A child that drains stays so until it is gone."""
        silent_ms = mono_ms - self.moved_ms
        if silent_ms >= failure_timeout_ms:
            return Health.GONE
        if self.beat.draining:
            return Health.DRAINING
        return Health.SUSPECT if silent_ms >= failure_timeout_ms // 2 else Health.ACTIVE


def discount_silence(children: Iterable[Subordinate], unseen_ms: int, mono_ms: int) -> None:
    """Forgives `unseen_ms` of silence, in which Redis was away or the observer stood still, so nobody could be
    heard."""
    for child in children:
        child.moved_ms = min(mono_ms, child.moved_ms + unseen_ms)


def _only_kind(beat: Beat) -> Kind:
    """The kind of an agent that tells of no others."""
    return Kind(
        skills=beat.capabilities,
        capacity=beat.capacity,
        agent_capacity=beat.agent_capacity,
        concurrency=beat.concurrency,
        agent_concurrency=beat.agent_concurrency,
    )


@lru_cache(maxsize=1024)  # asked several times for each task, and the same while a step hands out
def prefetch_window(concurrency: int, mean_run_ms: float) -> int:
    """How many tasks a worker may hold: those it runs, and those that it finishes in PREFETCH_MS beyond them."""
    beyond = concurrency * PREFETCH_MS / max(mean_run_ms, 0.05)
    return concurrency + max(1, min(MAX_PREFETCHED - concurrency, int(beyond))) if concurrency else 0
