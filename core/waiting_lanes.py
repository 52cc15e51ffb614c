"""Waiting tasks that need the same skills: a lane, with a line for each tenant; and which task of it is next.

Submitted tasks stand in a line by the date at which they are due. Tasks below one take turns with those below others
and with the submitted ones, within each priority; between the priorities the task that is due first is next. So an
urgent task overtakes, and a root with thousands of children holds up no other.

Tasks mostly come in the order in which they are due, and then neither adding one nor taking one depends on how many
wait.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import islice

from core.fair_shares import Root, Tenant
from core.task_status import Priority

__all__ = ["Lane", "Line", "Needs", "Offer", "Ticket", "Tickets", "counts", "goes_before"]

Needs = tuple[str, ...]
#: A waiting task: when it is due, its arrival, its id, its priority, its root ("": it is one itself).
Offer = tuple[int, int, str, Priority, str]
#: Where a waiting task is: its arrival, its lane and line (None: it pauses), its root. What lies in a line counts if it
#: has the arrival of the task's ticket.
Ticket = tuple[int, "Lane | None", "Line | None", str]
#: By task id.
Tickets = dict[str, Ticket]
#: What a root had passed, and its task that is next: so they stand in runs.
Turn = tuple[int, Offer]
#: Offers by age of tasks that are gone are cleared away when there are as many as tasks, and this many more.
KEPT = 1_000


def counts(tickets: Tickets, task_id: str, arrival: int) -> bool:
    """Whether the task waits, and was not moved since that arrival."""
    ticket = tickets.get(task_id)
    return ticket is not None and ticket[0] == arrival


def goes_before(tenant: Tenant, one: Offer, other: Offer) -> bool:
    """Whether one task of a tenant goes before another."""
    if one[3] is not other[3] or one[4] == other[4] or not tenant.roots:
        return one < other
    roots = tenant.roots
    passed = [roots[root_id].passed if root_id else tenant.tops_passed for root_id in (one[4], other[4])]
    return (passed[0], one) < (passed[1], other)


class Ordered:
    """Offers by when they are due, some of which may be of tasks that are gone."""

    __slots__ = ("late", "punctual")

    def __init__(self) -> None:
        self.punctual: deque[Offer] = deque()  #: as they came, as long as that is the order in which they are due
        self.late: list[Offer] = []  #: heap: the others

    def add(self, offer: Offer) -> None:
        punctual = self.punctual
        if not punctual or offer > punctual[-1]:
            punctual.append(offer)
        else:
            heapq.heappush(self.late, offer)

    def first(self, tickets: Tickets) -> Offer | None:
        """The first that counts; those before it are dropped."""
        punctual, late = self.punctual, self.late
        while punctual:
            offer = punctual[0]
            ticket = tickets.get(offer[2])
            if ticket is not None and ticket[0] == offer[1]:
                break
            punctual.popleft()
        if not late:
            return punctual[0] if punctual else None
        while late and not counts(tickets, late[0][2], late[0][1]):
            heapq.heappop(late)
        return min((*late[:1], *islice(punctual, 1)), default=None)

    def all(self, tickets: Tickets) -> list[Offer]:
        """Those that count, in their order."""
        return sorted(offer for offer in (*self.punctual, *self.late) if counts(tickets, offer[2], offer[1]))

    def __len__(self) -> int:
        return len(self.punctual) + len(self.late)


class Below:
    """The tasks below roots of one priority in a line."""

    __slots__ = ("ages", "behind", "open", "room", "runs")

    def __init__(self) -> None:
        self.ages = Ordered()  #: all of them
        self.room = KEPT  #: the number of those at which they are cleared
        #: root -> its tasks, without the first: that one stands in a run
        self.behind: dict[str, Ordered] = {}
        self.runs: list[tuple[Turn, deque[Turn]]] = []  #: heap: turns in runs that are in order, by the first of each
        self.open: deque[Turn] = deque()  #: the run that was added to last

    def add(self, root: Root, offer: Offer) -> None:
        self.ages.add(offer)
        behind = self.behind.get(offer[4])
        if behind is None:
            self.behind[offer[4]] = Ordered()
            self._enter((root.passed, offer))
        else:
            behind.add(offer)

    def first(self, tickets: Tickets, roots: dict[str, Root]) -> Offer | None:
        """The task that is next. Those that are gone make way for the next of their roots, and those of roots that have
        had turns elsewhere move back."""
        while self.runs:
            (passed, offer), run = self.runs[0]
            root = roots.get(offer[4])
            if not counts(tickets, offer[2], offer[1]):
                self._leave(run)
                offer_behind = self.behind[offer[4]].first(tickets)
                if offer_behind is None or root is None:
                    del self.behind[offer[4]]
                else:
                    self._take_from(self.behind[offer[4]], offer_behind)
                    self._enter((root.passed, offer_behind))
                self._clear(tickets)
            elif root is not None and passed < root.passed:
                self._leave(run)
                self._enter((root.passed, offer))
            else:
                return offer
        return None

    @staticmethod
    def _take_from(behind: Ordered, offer: Offer) -> None:
        if behind.punctual and behind.punctual[0] is offer:
            behind.punctual.popleft()
        else:
            heapq.heappop(behind.late)

    def _clear(self, tickets: Tickets) -> None:
        if len(self.ages) > self.room:
            kept, self.ages = self.ages.all(tickets), Ordered()
            self.ages.punctual.extend(kept)
            self.room = 2 * len(kept) + KEPT

    def _enter(self, turn: Turn) -> None:
        run = self.open
        if run and turn > run[-1]:
            run.append(turn)
        else:
            self.open = run = deque((turn,))
            heapq.heappush(self.runs, (turn, run))

    def _leave(self, run: deque[Turn]) -> None:
        """Removes the first of the first run."""
        run.popleft()
        if run:
            heapq.heapreplace(self.runs, (run[0], run))
        else:
            heapq.heappop(self.runs)


class Line:
    """The tasks of one tenant in one lane."""

    __slots__ = ("aged", "below", "tenant", "tops", "turn", "waiting")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.waiting = 0
        self.tops = Ordered()  #: the submitted tasks
        self.below: dict[Priority, Below] = {}  #: those below them
        self.turn: tuple[int, int, str] | None = None  #: its entry among those of its lane that take turns
        self.aged: tuple[int, str] | None = None  #: its entry among those of its lane by age

    def add_below(self, root: Root, offer: Offer) -> None:
        """Adds a task that is below this root."""
        below = self.below.get(offer[3])
        if below is None:
            below = self.below[offer[3]] = Below()
        below.add(root, offer)

    def next(self, tickets: Tickets) -> Offer | None:
        """The task that is next; None: none waits."""
        best = self.tops.first(tickets)
        for below in self.below.values():
            offer = below.first(tickets, self.tenant.roots)
            if offer is not None and (best is None or goes_before(self.tenant, offer, best)):
                best = offer
        return best

    def oldest(self, tickets: Tickets) -> Offer | None:
        """The task that was due first; None: none waits."""
        ages = (self.tops, *(below.ages for below in self.below.values()))
        return min(filter(None, (ordered.first(tickets) for ordered in ages)), default=None)

    def ids(self, tickets: Tickets) -> Iterator[str]:
        """The ids of its tasks, in no particular order."""
        for ordered in (self.tops, *(below.ages for below in self.below.values())):
            yield from (offer[2] for offer in ordered.all(tickets))


class Lane:
    """The waiting tasks of one placement that need the same skills, a line for each tenant."""

    __slots__ = ("by_age", "lanes", "lines", "needs", "only", "turns")

    def __init__(self, lanes: dict[Needs, Lane], needs: Needs) -> None:
        self.lanes, self.needs = lanes, needs  #: where it stands as long as a task of it waits
        self.lines: dict[str, Line] = {}  #: by tenant
        self.only: Line | None = None  #: the line, if it is the only one
        self.turns: list[tuple[int, int, str]] = []  #: heap: what a tenant has passed, when its task is due, tenant
        self.by_age: list[tuple[int, str]] = []  #: heap: when the tenant's oldest task is due, tenant

    @property
    def waiting(self) -> int:
        """The number of its tasks."""
        return sum(line.waiting for line in self.lines.values())

    def add_line(self, tenant: Tenant, due_ms: int) -> Line:
        """The line of a tenant whose first task comes."""
        line = self.lines[tenant.name] = Line(tenant)
        self.only = None if self.only or len(self.lines) > 1 else line
        self.enter(line, due_ms)
        self.note_age(line, due_ms)
        return line

    def drop_line(self, line: Line) -> None:
        """Removes a line in which nothing waits."""
        del self.lines[line.tenant.name]
        if not self.lines:
            del self.lanes[self.needs]
        self.only = next(iter(self.lines.values())) if len(self.lines) == 1 else None

    def enter(self, line: Line, due_ms: int) -> None:
        """Has a line take turns."""
        line.turn = (line.tenant.passed, due_ms, line.tenant.name)
        heapq.heappush(self.turns, line.turn)

    def note_age(self, line: Line, due_ms: int) -> None:
        """Notes that a line has a task that is due then, and none that is due earlier."""
        line.aged = (due_ms, line.tenant.name)
        heapq.heappush(self.by_age, line.aged)

    def in_turn(self, tickets: Tickets) -> Line | None:
        """The line of several whose tenant is next; None: all of them are held."""
        while self.turns:
            top = self.turns[0]
            line = self.lines.get(top[2])
            if line is None or line.turn is not top:  # it has left meanwhile
                heapq.heappop(self.turns)
            elif line.tenant.held:
                heapq.heappop(self.turns)
                line.turn = None
            elif top[0] == line.tenant.passed:
                return line
            else:
                offer = line.next(tickets)
                assert offer
                line.turn = (line.tenant.passed, offer[0], top[2])
                heapq.heapreplace(self.turns, line.turn)
        return None

    def oldest(self, tickets: Tickets) -> Offer | None:
        """The task that was due first, of tenants that are not held."""
        while self.by_age:
            top = self.by_age[0]
            line = self.lines.get(top[1])
            if line is None or line.aged is not top:
                heapq.heappop(self.by_age)
            elif line.tenant.held:
                heapq.heappop(self.by_age)
                line.aged = None
            else:
                oldest = line.oldest(tickets)
                assert oldest
                if oldest[0] == top[0]:
                    return oldest
                line.aged = (oldest[0], top[1])
                heapq.heapreplace(self.by_age, line.aged)
        return None

    def release(self, tenant: str, tickets: Tickets) -> None:
        """Has the line of a tenant that is not held any more take turns again, if it has one here."""
        line = self.lines.get(tenant)
        if line is None:
            return
        if line.turn is None and (offer := line.next(tickets)):
            self.enter(line, offer[0])
        if line.aged is None and (oldest := line.oldest(tickets)):
            self.note_age(line, oldest[0])
