"""Which tasks a parent takes back from a child where they wait, since another child has idle slots for them.

A child is asked for no more than the others begin at once. So that tasks do not bounce, a slot counts as idle, and a
task as waiting, only when they did so at the look before as well, and no task is asked for twice. A task that was taken
back begins where it is handed to next, and what has begun is never taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from core.agents import Health, Subordinate
from core.room import Needs

__all__ = ["LookBack", "take_back"]

#: Number of looks in the failure timeout.
LOOKS = 5
#: Number of tasks that are asked for at one look, and number of tasks of one child that are looked at for that.
ASKED_AT_ONCE, LOOKED_AT = 200, 1_000


@dataclass(slots=True)
class LookBack:
    """What a parent remembers of its last look for tasks to take back."""

    looked_ms: int = 0  #: observer's monotonic time
    #: the children that had idle slots, for runs of agents or for other tasks
    idle: frozenset[tuple[str, bool]] = frozenset()
    handed: dict[str, int] = field(default_factory=dict)  #: by child, how many tasks it had been handed
    asked: dict[str, str] = field(default_factory=dict)  #: task id -> the child that was asked for it


def take_back(
    last: LookBack,
    children: Collection[Subordinate],
    waiting: Collection[Needs],
    may_move: Callable[[str], bool],
    mono_ms: int,
    failure_timeout_ms: int,
) -> list[tuple[Subordinate, str]]:
    """The tasks to ask back, each with the child that has it, at most LOOKS times in the failure timeout. `waiting`:
    what the tasks need that wait here, and go to idle children first. `may_move`: whether a task may go elsewhere."""
    if mono_ms - last.looked_ms < failure_timeout_ms // LOOKS:
        return []
    last.looked_ms = mono_ms
    idle = {
        (child.name, agents): count
        for child in children
        for agents in (False, True)
        if (count := child.idle_slots(agents)) and not any(child.has_slot(needs) for needs in waiting)
    }
    takers = {slots: count for slots, count in idle.items() if slots in last.idle}
    last.idle = frozenset(idle)
    handed, last.handed = last.handed, {child.name: child.handed for child in children}
    has = {child.name: child for child in children}
    last.asked = {task: name for task, name in last.asked.items() if name in has and task in has[name].in_flight}
    found: list[tuple[Subordinate, str]] = []
    for giver in sorted(children, key=lambda child: -child.share) if takers else ():
        for task_id in _behind(giver, handed.get(giver.name, 0)):
            if not takers or len(found) == ASKED_AT_ONCE:
                return found
            if task_id in last.asked or not may_move(task_id):
                continue
            needs = giver.needs[task_id]
            may_take = (each for each in takers if each[0] != giver.name and has[each[0]].hosts(needs) is each[1])
            if (taker := next((each for each in may_take if has[each[0]].has_slot(needs)), None)) is not None:
                takers[taker] -= 1
                if not takers[taker]:
                    del takers[taker]
                last.asked[task_id] = giver.name
                found.append((giver, task_id))
    return found


def _behind(child: Subordinate, handed: int) -> Iterable[str]:
    """The tasks of a child that wait there behind others and were among the first `handed`, the latest first."""
    if child.health is Health.GONE:
        return
    behind = {agents: child.behind(agents) for agents in (False, True)}
    for number, task_id in enumerate(reversed(child.in_flight)):
        if number == LOOKED_AT or not any(behind.values()):
            return
        agents = child.is_run(task_id)
        if behind[agents]:
            behind[agents] -= 1
            if child.in_flight[task_id] <= handed:
                yield task_id
