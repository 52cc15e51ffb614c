"""How many tasks of a dispatch queue wait for what, at a cost that does not grow with their number. A rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum

from core.agents import Health, Subordinate
from core.dispatch_queue import DispatchQueue, Placement
from core.waiting_lanes import Needs

__all__ = ["WaitingFor", "all_waiting", "counted", "unread"]


class WaitingFor(StrEnum):
    """Why a task does not run. What each means for its user, and the cure, stands in docs/fairness.md."""

    NOBODY_HAS = "nobody_has"  #: no agent is there that has what it needs
    ALL_FULL = "all_full"  #: all that could run it have as much as they take: it waits its turn
    EXCLUDED_UNTIL = "excluded_until"  #: it has failed, and pauses, or is kept from where it failed
    DEPENDENCY = "dependency"  #: tasks that it has spawned or delegated
    QUESTION = "question"  #: an answer of a person
    THREAD_BUSY = "thread_busy"  #: an earlier run of its thread
    BUDGET = "budget"  #: what calls of others have reserved of a budget for models
    RATE_LIMIT = "rate_limit"  #: so many of its tenant or type have begun in this minute
    QUOTA = "quota"  #: so many of its tenant or type are in flight
    DRAINING = "draining"  #: who would hand it out or run it stops
    SUSPECT_FLEET = "suspect_fleet"  #: all that could run it are silent
    NOT_BEFORE = "not_before"  #: it must not begin yet
    UNREAD = "unread"  #: an agent has it among its messages
    CANCELLING = "cancelling"  #: its worker has to stop it
    RUNNING = "running"  #: nothing: it runs
    NOTHING = "nothing"  #: it has ended


def counted(
    queue: DispatchQueue,
    children: Collection[Subordinate],
    why_held: Callable[[Needs, str], WaitingFor | None],
    *,
    draining: bool = False,
) -> Counter[WaitingFor]:
    """How many wait for what; `why_held` says what holds back tasks with these needs (of "") or of this tenant (of
    ()); None: nothing does."""
    counts = Counter({WaitingFor.NOT_BEFORE: queue.paused})
    for placement, lanes in zip(Placement, queue.lanes, strict=True):
        for needs, lane in lanes.items():
            waits_for = WaitingFor.DRAINING if draining else why_held(needs, "") or _for_room(needs, children)
            if waits_for is WaitingFor.ALL_FULL and placement is not Placement.ANYWHERE:
                waits_for = WaitingFor.EXCLUDED_UNTIL
            counts[waits_for] += lane.waiting
            if waits_for is WaitingFor.ALL_FULL:
                for tenant in queue.held_tenants & lane.lines.keys():
                    held, line = why_held((), tenant), lane.lines[tenant]
                    counts[waits_for] -= line.waiting
                    counts[held or waits_for] += line.waiting
    return +counts


def all_waiting(
    nobodys: Mapping[str, int], of_distributors: Iterable[Mapping[str, int]], of_workers: Iterable[tuple[int, int]]
) -> dict[str, int]:
    """How many tasks of a hierarchy wait for what: what the coordinator says of those that nobody has, and the agents
    below it, those that are up, of theirs: a worker how many run, and how many wait there. As each tells with its
    heartbeat, a task that moves may count twice, or not at all."""
    counts = Counter(nobodys)
    for waits in of_distributors:
        counts.update(waits)
    for running, queued in of_workers:
        counts[WaitingFor.RUNNING] += running
        counts[WaitingFor.ALL_FULL] += queued
    return {str(reason): count for reason, count in sorted(counts.items()) if count > 0}


def unread(children: Iterable[Subordinate]) -> int:
    """How many tasks were handed to children and not read there, as far as their last heartbeats tell."""
    return sum(
        max(0, len(child.in_flight) - child.beat.running - child.beat.queued) for child in children if child.beat.beat
    )


def _for_room(needs: Needs, children: Collection[Subordinate]) -> WaitingFor:
    able = {child.health for child in children if child.can(needs)}
    if not able or able == {Health.GONE}:
        return WaitingFor.NOBODY_HAS
    if Health.ACTIVE in able:
        return WaitingFor.ALL_FULL
    return WaitingFor.SUSPECT_FLEET if Health.SUSPECT in able else WaitingFor.DRAINING
