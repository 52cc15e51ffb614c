"""The queue of waiting tasks, which decides the next one.

Tasks with the same type, needs and placement share a lane. So a task that cannot run now holds up only tasks like it.
Among the lanes that can be served, tenants take turns by their weights. Within a tenant the order is earliest due date
with ageing: a task is due at its arrival plus the patience of its priority. So urgent work overtakes normal work, but
normal work that has waited a minute longer overtakes urgent work. Where tasks of one priority wait under several roots,
the roots take turns.

No task starves. A task is overdue when it is due since OVERDUE_MS, and of every OVERDUE_EVERY turns one goes to the
task that is due first of all, if that is overdue. So an overdue task before which n others are due is handed out within
OVERDUE_EVERY * (n + 1) turns, whatever others submit and whatever their weights are: tasks that come later are due
later. At r turns a second it waits for at most

    patience + OVERDUE_MS + OVERDUE_EVERY * (n + 1) / r

not counting the time in which it cannot be served: it pauses, nobody has room for its kind, or it is at a limit.

A decision costs the same for ten waiting tasks as for a million, and grows with the logarithm of the number of tenants.
What tenants and roots have had is not stored: after a takeover all begin equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from core.fair_shares import DEFAULT_WEIGHT, UNIT, Tenant, passed_after
from core.tasks import Priority, Task, skills_needed, tenant_of
from core.waiting_lanes import Lane, Line, Needs, Offer, Tickets, counts, goes_before

__all__ = ["OVERDUE_EVERY", "OVERDUE_MS", "PATIENCE_MS", "DispatchQueue", "Placement"]

#: How much longer than an urgent task a task of this priority waits, ms.
PATIENCE_MS = {
    Priority.URGENT: 0,
    Priority.CRITICAL: 5_000,
    Priority.HIGH: 15_000,
    Priority.NORMAL: 60_000,
    Priority.LOW: 180_000,
}
#: A task that is due since this long, ms, is overdue; and how many turns there are for each that an overdue task gets.
OVERDUE_MS, OVERDUE_EVERY = 60_000, 8
#: Later than any date.
NEVER_MS = 1 << 62
#: Tenants that are remembered while nothing of theirs waits, beyond twice the number of those that wait.
RESTING = 1_000


class Placement(IntEnum):
    """Which of the children that can run a task may get it."""

    ANYWHERE = 0  #: any child with room for it, even behind other tasks
    AT_ONCE = 1  #: a child that begins it immediately
    ALONE = 2  #: a child that begins it immediately, and has no other task of this placement


@dataclass(slots=True)
class DispatchQueue:
    """The ids of the waiting tasks, each at most once."""

    lanes: tuple[dict[Needs, Lane], ...] = field(default_factory=lambda: tuple({} for _ in Placement))  #: by placement
    later: list[tuple[int, int, Placement, Task]] = field(default_factory=list)  #: heap, by (not before, arrival)
    waiting: Tickets = field(default_factory=dict)  #: by task id
    arrivals: int = 0
    paused: int = 0  #: number of tasks that must not begin yet
    tenants: dict[str, Tenant] = field(default_factory=dict)  #: those with waiting tasks, and some that had some
    resting: int = 0  #: number of those that have none
    weights: dict[str, int] = field(default_factory=dict)  #: by tenant; of others DEFAULT_WEIGHT
    held_types: set[str] = field(default_factory=set)  #: skills of task types that are at a limit: `task:TYPE`
    held_tenants: set[str] = field(default_factory=set)  #: tenants that are at a limit
    clock: int = 0  #: the virtual time of the tenants (see fair_shares)
    weight: int = 0  #: of the tenants with waiting tasks, together
    turns: int = 0  #: number of tasks handed out
    now_ms: int = 0  #: at the last `wake`
    earliest_ms: int = NEVER_MS  #: nothing in a lane is due before
    created: datetime | None = None  #: the last moment that was converted to ms
    created_ms: int = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self.waiting

    @property
    def oldest(self) -> str | None:
        """The id of the task that has been here longest; None: the queue is empty."""
        return next(iter(self.waiting), None)

    def push(self, task: Task, placement: Placement = Placement.ANYWHERE) -> None:
        """Adds `task`, or moves it if it is here. It is not offered before its `not_before` (see `wake`)."""
        task_id = task.task_id
        if task_id in self.waiting:
            self.remove(task_id)
        self.arrivals += 1
        if task.not_before:
            begins_ms = int(task.not_before.timestamp() * 1000)
            self.waiting[task.task_id] = (self.arrivals, None, None, "")
            self.paused += 1
            heapq.heappush(self.later, (begins_ms, self.arrivals, placement, task))
        else:
            self._line_up(task, self.arrivals, placement)

    def remove(self, task_id: str) -> bool:
        """Removes a task. Returns whether it was there."""
        ticket = self.waiting.pop(task_id, None)
        if ticket is None:
            return False
        _, lane, line, root_id = ticket
        if lane is None or line is None:
            self.paused -= 1
        else:
            self._leave(lane, line, root_id)
        return True

    def wake(self, now_ms: int) -> None:
        """Moves the tasks whose pause is over into their lanes."""
        self.now_ms = now_ms
        while self.later and self.later[0][0] <= now_ms:
            _, arrival, placement, task = heapq.heappop(self.later)
            if counts(self.waiting, task.task_id, arrival):
                self.paused -= 1
                self._line_up(task, arrival, placement)

    def next_wake_ms(self) -> int | None:
        """When the next pause ends, in ms since 1970; None: no task pauses."""
        return self.later[0][0] if self.later else None

    def offers(self, placement: Placement = Placement.ANYWHERE) -> bool:
        """Whether tasks of this placement wait."""
        return bool(self.lanes[placement])

    def pop(self, can_serve: Callable[[Needs], bool], placement: Placement = Placement.ANYWHERE) -> str | None:
        """The next id among the lanes of this placement that `can_serve` accepts; None: no task can be handed out."""
        best: Offer | None = None
        if self.turns % OVERDUE_EVERY == OVERDUE_EVERY - 1 and self.earliest_ms + OVERDUE_MS <= self.now_ms:
            best = self._overdue(can_serve, placement)
        if best is None:
            best = self._in_turn(can_serve, placement)
        if best is None:
            return None
        self.turns += 1
        _, lane, line, root_id = self.waiting.pop(best[2])
        if line is not None and lane is not None:  # it does not pause
            tenant, punctual = line.tenant, line.tops.punctual
            if punctual and punctual[0] is best:
                punctual.popleft()
            if tenant.weight != self.weight:  # others wait as well
                tenant.passed = passed_after(tenant.passed, self.clock, UNIT // tenant.weight)
                self.clock += UNIT // self.weight
            if tenant.roots:
                tenant.take(root_id)
            if root_id or line.waiting == 1:
                self._leave(lane, line, root_id)
            else:
                line.waiting -= 1
                tenant.waiting -= 1
        return best[2]

    def weigh(self, tenant: str, weight: int | None) -> None:
        """Sets the weight of a tenant, or that of all who have none of their own."""
        if weight is None:
            self.weights.pop(tenant, None)
        else:
            self.weights[tenant] = weight
        known = self.tenants.get(tenant)
        if known is not None:
            anew = weight or DEFAULT_WEIGHT
            self.weight += (anew - known.weight) if known.waiting else 0
            known.weight = anew

    def hold_tenant(self, tenant: str) -> None:
        """Passes the tasks of a tenant over until it is released."""
        self.held_tenants.add(tenant)
        if known := self.tenants.get(tenant):
            known.held = True

    def release_tenant(self, tenant: str) -> None:
        """Offers the tasks of a tenant again."""
        if tenant in self.held_tenants:
            self.held_tenants.discard(tenant)
            if known := self.tenants.get(tenant):
                known.held = False
                for lanes in self.lanes:
                    for lane in lanes.values():
                        lane.release(tenant, self.waiting)

    def needs(self, *placements: Placement) -> set[Needs]:
        """The needs of the waiting tasks of these placements, or of all; one entry for each set of skills."""
        return {needs for placement in placements or Placement for needs in self.lanes[placement]}

    def in_lane(self, needs: Needs) -> list[str]:
        """The ids of the tasks that wait for a child with these skills, in no particular order."""
        return [
            task_id
            for lane in self._lanes_of(needs)
            for line in lane.lines.values()
            for task_id in line.ids(self.waiting)
        ]

    def _lanes_of(self, needs: Needs) -> Iterator[Lane]:
        return (lanes[needs] for lanes in self.lanes if needs in lanes)

    def _in_turn(self, can_serve: Callable[[Needs], bool], placement: Placement) -> Offer | None:
        """The task whose tenant has passed least."""
        best: Offer | None = None
        whose: Tenant | None = None
        tickets, held = self.waiting, self.held_types
        for needs, lane in self.lanes[placement].items():
            line = lane.only or lane.in_turn(tickets)
            if line is None:
                continue
            tenant, tops = line.tenant, line.tops
            if tops.punctual and not line.below and not tops.late:  # mostly; the rest does the same, and more
                first = tops.punctual[0]
                if best is not None and tenant is whose and best < first and not tenant.roots:
                    continue
                ticket = tickets.get(first[2])
                offer = first if ticket and ticket[0] == first[1] else tops.first(tickets)
            else:
                offer = line.next(tickets)
            if offer is None or tenant.held or (held and needs[0] in held):
                continue
            if best is None or whose is None:
                goes_first = True
            elif tenant is not whose:
                goes_first = (tenant.passed, offer) < (whose.passed, best)
            else:
                goes_first = goes_before(tenant, offer, best) if tenant.roots else offer < best
            if goes_first and can_serve(needs):
                best, whose = offer, tenant
        return best

    def _overdue(self, can_serve: Callable[[Needs], bool], placement: Placement) -> Offer | None:
        """The task that is due first of all, if that is overdue."""
        best: Offer | None = None
        if not self.held_tenants:  # of those that are held nobody says when their tasks are due
            dates = (lane.oldest(self.waiting) for lanes in self.lanes for lane in lanes.values())
            self.earliest_ms = min((date[0] for date in dates if date), default=NEVER_MS)
        for needs, lane in self.lanes[placement].items():
            if needs[0] in self.held_types or (oldest := lane.oldest(self.waiting)) is None:
                continue
            if oldest[0] + OVERDUE_MS <= self.now_ms and (best is None or oldest < best) and can_serve(needs):
                best = oldest
        return best

    def _leave(self, lane: Lane, line: Line, root_id: str) -> None:
        """Notes that a task waits no more."""
        tenant = line.tenant
        if root_id:
            tenant.drop_below(root_id)
        line.waiting = left = line.waiting - 1
        if not left:
            lane.drop_line(line)
        tenant.waiting = left = tenant.waiting - 1
        if not left:
            self.weight -= tenant.weight
            self.resting += 1
            if not self.weight or self.resting > RESTING + 2 * (len(self.tenants) - self.resting):
                self._forget()

    def _forget(self) -> None:
        """Forgets the tenants that have nothing waiting: what they have had is of no importance when nobody waits, and
        those that only come and go must not fill the memory."""
        self.tenants = {name: tenant for name, tenant in self.tenants.items() if tenant.waiting}
        self.resting = 0

    def _begin(self, name: str) -> Tenant:
        """The tenant of this name, of which nothing has waited."""
        tenant = self.tenants.get(name)
        if tenant is None:
            weight = self.weights.get(name, DEFAULT_WEIGHT)
            tenant = self.tenants[name] = Tenant(name, weight, self.clock, name in self.held_tenants)
        else:
            tenant.passed = max(tenant.passed, self.clock)
            self.resting -= 1
        self.weight += tenant.weight
        return tenant

    def _line_up(self, task: Task, arrival: int, placement: Placement) -> None:
        created = task.created_at
        if created is not self.created:  # those that come together mostly have the same
            self.created, self.created_ms = created, int(created.timestamp() * 1000)
        due_ms = self.created_ms + PATIENCE_MS[task.priority]
        if due_ms < self.earliest_ms:
            self.earliest_ms = due_ms
        needs, name, task_id = skills_needed(task), tenant_of(task), task.task_id
        tenant = self.tenants.get(name)
        if tenant is None or not tenant.waiting:
            tenant = self._begin(name)
        lanes = self.lanes[placement]
        lane = lanes.get(needs)
        if lane is None:
            lane = lanes[needs] = Lane(lanes, needs)
        line = lane.lines.get(name)
        if line is None:
            line = lane.add_line(tenant, due_ms)
        elif line.aged is not None and due_ms < line.aged[0]:
            lane.note_age(line, due_ms)
        root_id = (task.root_id or "") if task.parent_id else ""
        offer = (due_ms, arrival, task_id, task.priority, root_id)
        if root_id:
            line.add_below(tenant.add_below(root_id), offer)
        else:
            punctual = line.tops.punctual
            if not punctual or offer > punctual[-1]:
                punctual.append(offer)
            else:
                line.tops.add(offer)
        line.waiting += 1
        tenant.waiting += 1
        self.waiting[task_id] = (arrival, lane, line, root_id)
