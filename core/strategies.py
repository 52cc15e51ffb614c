"""How a parent chooses among the children that may get a task: one pure function for each strategy.

A function is given the children that can do the task and have room, at least one. Chance comes from the task's id, so
that the same step is the same when it is repeated. Where there are many children, two of them are compared, chosen by
the task's id: that is nearly as even as comparing all (Mitzenmacher 2001, "The power of two choices in randomized load
balancing"), and takes no longer with more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from zlib import crc32

from core.agents import Subordinate
from core.candidates import Candidates
from core.errors import UserError
from core.room import Needs
from core.tasks import Task, skills_needed

__all__ = ["CHOOSES", "DEFAULT", "OF_NONE", "TAKING_TURNS", "Asks", "Strategy", "Turns", "asks_of", "strategy_named"]

#: Up to this many children are all compared.
FEW = 16
#: Multiplier of Fibonacci hashing (Knuth), which spreads similar numbers over 64 bits.
SPREAD, BITS = 0x9E3779B97F4A7C15, (1 << 64) - 1


class Strategy(StrEnum):
    """By what a parent chooses among the children that may get a task."""

    LEAST_CONNECTIONS = "least_connections"  #: the one with the fewest tasks, relative to how many it runs at once
    ROUND_ROBIN = "round_robin"  #: each in turn
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"  #: each in turn, as often as its weight says
    RESOURCE_BASED = "resource_based"  #: the one whose machine has most processor time and memory left
    GEOGRAPHIC = "geographic"  #: the one in the region that the task names first
    RANDOM = "random"  #: any
    RENDEZVOUS = "rendezvous"  #: the same one for tasks with the same key, as long as it has room


DEFAULT = Strategy.LEAST_CONNECTIONS
#: Those that remember earlier choices.
TAKING_TURNS = frozenset({Strategy.ROUND_ROBIN, Strategy.WEIGHTED_ROUND_ROBIN})
#: The name that takes from a distributor the strategy of its own.
OF_NONE = "default"


def strategy_named(name: str) -> Strategy:
    """The strategy of that name. Raises UserError, which lists the names."""
    try:
        return Strategy(name)
    except ValueError:
        raise UserError(f"there is no strategy {name[:40]!r}; there are {', '.join(Strategy)}") from None


class Asks(NamedTuple):
    """What a task asks of a choice."""

    needs: Needs
    chance: int  #: 64 bits that follow from its id
    key: str  #: tasks with the same one had better be in one place; empty: it does not matter
    regions: tuple[str, ...]


def asks_of(task: Task) -> Asks:
    """What a task asks of a choice."""
    chance = crc32(task.task_id.encode()) * SPREAD & BITS
    return Asks(skills_needed(task), chance, task.affinity_key or "", task.regions)


@dataclass(slots=True)
class Turns:
    """Whose turn it is: what the strategies that take turns remember of earlier choices. It is not stored: after a
    restart the turns begin anew."""

    last: str = ""  #: who was chosen last
    now: float = 0.0  #: the virtual time of weighted turns, at which the last chosen one began
    until: dict[str, float] = field(default_factory=dict)  #: by name, the virtual time at which its last turn ends

    def note(self, chosen: Subordinate) -> None:
        """Notes that a child has got a task. One that has not been here gets no turns for the past."""
        self.last = name = chosen.address.agent_id
        self.now = begins = max(self.now, self.until.get(name, 0.0))
        self.until[name] = begins + 1 / chosen.weight

    def forget(self, names: Sequence[str]) -> None:
        """Keeps only what is known of these children."""
        self.until = {name: self.until[name] for name in names if name in self.until}


def least_connections(ready: Candidates, asks: Asks, turns: Turns) -> Subordinate:
    """The one with the fewest tasks, relative to how many it runs at once."""
    return _least(Subordinate.load, ready.children, asks)


def round_robin(ready: Candidates, asks: Asks, turns: Turns) -> Subordinate:
    """The one whose name follows that of the last chosen one."""
    return ready.after(turns.last)


def weighted_round_robin(ready: Candidates, asks: Asks, turns: Turns) -> Subordinate:
    """The one whose last turn ended first; a turn of a child is the shorter, the larger its weight (start-time fair
    queueing, Goyal 1996)."""
    return ready.least(turns.until)


def resource_based(ready: Candidates, asks: Asks, turns: Turns) -> Subordinate:
    """The one whose machine has most processor time and memory left. Since heartbeats lag behind, what it has got since
    counts too."""
    return _least(_use_of_resources, ready.children, asks)


def _use_of_resources(child: Subordinate, needs: Needs) -> float:
    beat = child.beat
    return (1 + child.load(needs)) / ((101 - beat.cpu_percent) * (101 - beat.memory_percent))


def geographic(ready: Candidates, asks: Asks, turns: Turns) -> Subordinate:
    """Of those in the nearest region, the one with the fewest tasks: near is the first region that the task names, then
    the others in their order, then any other."""
    nearest = next(filter(None, map(ready.in_region, asks.regions)), ready.children)
    return _least(Subordinate.load, nearest, asks)


def random(ready: Candidates, asks: Asks, turns: Turns) -> Subordinate:
    """Any, by the task's id."""
    return ready.children[(asks.chance >> 32) % len(ready)]


def rendezvous(ready: Candidates, asks: Asks, turns: Turns) -> Subordinate:
    """The one that is nearest to the task's key. When a child comes or goes, only the keys move that are nearest to it.
    A task without a key goes to the one with the fewest tasks."""
    return ready.nearest(asks.key) if asks.key else least_connections(ready, asks, turns)


def _least(cost: Callable[[Subordinate, Needs], float], ready: Sequence[Subordinate], asks: Asks) -> Subordinate:
    """The one that costs least, of all or of two of many; of equals the first."""
    needs, count = asks.needs, len(ready)
    if count <= FEW:
        return min(ready, key=lambda child: cost(child, needs))
    first = (asks.chance >> 32) % count
    second = (asks.chance >> 8) % (count - 1)
    one, other = ready[first], ready[second + (second >= first)]
    return other if cost(other, needs) < cost(one, needs) else one


#: The function of each strategy.
CHOOSES: dict[Strategy, Callable[[Candidates, Asks, Turns], Subordinate]] = {
    Strategy.LEAST_CONNECTIONS: least_connections,
    Strategy.ROUND_ROBIN: round_robin,
    Strategy.WEIGHTED_ROUND_ROBIN: weighted_round_robin,
    Strategy.RESOURCE_BASED: resource_based,
    Strategy.GEOGRAPHIC: geographic,
    Strategy.RANDOM: random,
    Strategy.RENDEZVOUS: rendezvous,
}
