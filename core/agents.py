"""What a parent knows of a child: capacity, load, and whether it still lives.

A child is judged by its heartbeats alone, on the observer's own monotonic clock. It is suspect when the number of its
heartbeat has not moved for half of the failure timeout, and gone after all of it. Wall clocks are never compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from msgspec.structs import replace

from core.reconciliation import Probe
from core.roles import Address
from core.status_reports import Beat
from core.tasks import Task, skills_needed

__all__ = ["UNKNOWN_RUN_MS", "Health", "Subordinate", "discount_silence", "prefetch_window"]

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


@dataclass(slots=True)
class Subordinate:
    """One child, as its parent sees it."""

    address: Address
    incarnation: int
    beat: Beat
    moved_ms: int  #: observer's monotonic time at which its heartbeat last moved
    health: Health = Health.ACTIVE
    in_flight: dict[str, int] = field(default_factory=dict)  #: task id -> number of its hand-over, in that order
    handed: int = 0  #: counts the hand-overs
    mean_run_ms: float = UNKNOWN_RUN_MS  #: of its recent tasks
    probe: Probe = field(default_factory=Probe)  #: which of the tasks in flight have not arrived
    #: those of the tasks in flight that have slots of their own: runs of agents
    agents_in_flight: set[str] = field(default_factory=set)
    skills: tuple[frozenset[str], ...] = ()  #: what its heartbeat says one worker can do; of a distributor, each kind

    @property
    def window(self) -> int:
        """How many tasks it may hold at once, besides runs of agents."""
        return self.beat.capacity or prefetch_window(self.beat.concurrency, self.mean_run_ms)

    @property
    def agent_window(self) -> int:
        """How many runs of agents it may hold at once: a worker no more than it begins, since a run may wait for
        long."""
        return (self.beat.agent_capacity or self.beat.agent_concurrency) if self.beat.agents else 0

    @property
    def free(self) -> int:
        """How many more tasks it may get, besides runs of agents."""
        return self.room(agents=False)

    def room(self, *, agents: bool, at_once: bool = False) -> int:
        """How many more runs of agents, or other tasks, it may get; with `at_once`, how many it would begin
        immediately."""
        if self.health is not Health.ACTIVE:
            return 0
        if agents:
            return self.agent_window - len(self.agents_in_flight)
        held = len(self.in_flight) - len(self.agents_in_flight)
        free = max(0, self.window - held)
        return min(free, self.beat.concurrency - held) if at_once else free

    def load(self, *, agents: bool) -> float:
        """The share of its window that is in use, by runs of agents or by other tasks."""
        if agents:
            return len(self.agents_in_flight) / (self.agent_window or 1)
        return (len(self.in_flight) - len(self.agents_in_flight)) / (self.window or 1)

    def take(self, task_id: str, needs: tuple[str, ...] = ()) -> None:
        """Notes that it is handed a task, which needs these skills."""
        self.handed += 1
        self.in_flight[task_id] = self.handed
        if self.hosts(needs):
            self.agents_in_flight.add(task_id)

    def drop(self, task_id: str) -> None:
        """Notes that it does not have a task any more."""
        self.in_flight.pop(task_id, None)
        self.agents_in_flight.discard(task_id)

    def tell_agents_apart(self, tasks: Mapping[str, Task]) -> None:
        """Counts the tasks in flight anew, since only now it is known which of them are runs of agents. `tasks`: by
        id."""
        self.agents_in_flight = {
            task_id
            for task_id in self.in_flight
            if (task := tasks.get(task_id)) is not None and self.hosts(skills_needed(task))
        }

    def hosts(self, needs: tuple[str, ...]) -> bool:
        """Whether a task that needs these skills is a run of an agent here. `needs`: as `skills_needed` gives them."""
        agents = self.beat.agents
        return bool(agents and needs) and needs[0].removeprefix("task:") in agents

    def can(self, needs: tuple[str, ...]) -> bool:
        """Whether it, or one of its workers, has all of these skills."""
        for skill_set in self.skills:  # noqa: SIM110 - asked several times for each task, and `any` costs as much again
            if skill_set.issuperset(needs):
                return True
        return False

    def update(self, beat: Beat, mono_ms: int) -> None:
        """Takes a heartbeat that moved on from the last one."""
        before = self.beat
        if not self.skills or (beat.capabilities, beat.skill_sets) != (before.capabilities, before.skill_sets):
            self.skills = tuple(frozenset(skill_set) for skill_set in beat.skill_sets or (beat.capabilities,))
        self.beat = beat
        self.moved_ms = mono_ms
        self.health = Health.DRAINING if beat.draining else Health.ACTIVE

    def mark_draining(self) -> None:
        """Notes that it gave a task back, so it is draining: it gets nothing new unless its next heartbeat says
        otherwise."""
        self.beat = replace(self.beat, draining=True)
        self.health = Health.DRAINING

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


def discount_silence(children: Iterable[Subordinate], unseen_ms: int, mono_ms: int) -> None:
    """Forgives `unseen_ms` of silence, in which Redis was away or the observer stood still, so nobody could be
    heard."""
    for child in children:
        child.moved_ms = min(mono_ms, child.moved_ms + unseen_ms)


@lru_cache(maxsize=1024)  # asked several times for each task, and the same while a step hands out
def prefetch_window(concurrency: int, mean_run_ms: float) -> int:
    """How many tasks a worker may hold: those it runs, and those that it finishes in PREFETCH_MS beyond them."""
    beyond = concurrency * PREFETCH_MS / max(mean_run_ms, 0.05)
    return concurrency + max(1, min(MAX_PREFETCHED - concurrency, int(beyond))) if concurrency else 0
