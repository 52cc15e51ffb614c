"""How many agents of a hierarchy there are and how they are, with little of each: what can be told of ten thousand
again and again.

Values and rules. `core.operations.fleet_counts` reads them from Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nsmallest
from typing import Any

from msgspec import Struct

from core.agents import Health
from core.natural_order import natural_key
from core.roles import Address, Role

__all__ = ["TIERS", "UP", "AgentBrief", "FleetCounts", "TierCounts", "tiers_of"]

TIERS = (Role.COORDINATOR, Role.DISTRIBUTOR, Role.WORKER)
#: How much an agent in each of them needs somebody to look, the most first.
_TROUBLE = {
    health: place
    for place, health in enumerate((Health.SUSPECT, Health.GONE, Health.UNHEARD, Health.DRAINING, Health.ACTIVE))
}
#: The healths of agents of which something can be expected.
UP = (Health.ACTIVE, Health.DRAINING)


class AgentBrief(Struct, frozen=True, gc=False):
    """One agent, as its lease, its last heartbeat and its inbox show it. Heartbeats are taken as stored, unverified."""

    chain: tuple[Address, ...]  #: from the coordinator down to it
    health: Health
    silent_ms: int | None  #: as in AgentView
    unread: int  #: messages in its inbox
    #: what it has said in its last heartbeat: tasks that run and that wait there, how many it can run at once, runs of
    #: agents apart, and how many have ended since its start
    running: int = 0
    queued: int = 0
    slots: int = 0
    agent_slots: int = 0
    done: int = 0
    failed: int = 0

    @property
    def role(self) -> Role:
        return self.chain[-1].role

    @property
    def agent_id(self) -> str:
        return self.chain[-1].agent_id

    @property
    def in_flight(self) -> int:
        """The tasks that it has."""
        return self.running + self.queued

    @property
    def up(self) -> bool:
        """As AgentView.up."""
        return self.health in UP


@dataclass(frozen=True, slots=True)
class TierCounts:
    """The agents of one tier."""

    by_health: Mapping[Health, int]
    unread: int  #: messages in their inboxes
    #: of those that are up: tasks that run, that wait at them, and that they can run at once, runs of agents apart
    running: int = 0
    queued: int = 0
    slots: int = 0
    agent_slots: int = 0

    @property
    def agents(self) -> int:
        return sum(self.by_health.values())

    @property
    def up(self) -> int:
        return sum(self.by_health.get(health, 0) for health in UP)

    @property
    def available_ratio(self) -> float | None:
        """The share of those that are up; None: there is none."""
        return self.up / self.agents if self.agents else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "agents": self.agents,
            "by_health": {health.value: self.by_health.get(health, 0) for health in Health},
            "available_ratio": self.available_ratio,
            "running": self.running,
            "queued": self.queued,
            "slots": self.slots,
            "agent_slots": self.agent_slots,
            "unread": self.unread,
        }


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """One hierarchy at one moment."""

    coordinator_id: str
    at: datetime  #: the server's clock
    agents: tuple[AgentBrief, ...]  #: the coordinator first, the others in no order
    tiers: Mapping[Role, TierCounts]
    open_tasks: int = 0
    ended_tasks: int = 0  #: whose records are still kept
    dead_letters: int = 0
    asking: int = 0  #: open tasks that ask a person something
    waiting: Mapping[str, int] = field(default_factory=dict)  #: how many open tasks wait for what, by WaitingFor
    quarantined: Mapping[str, int] = field(default_factory=dict)  #: as in Overview
    task_types: tuple[str, ...] = ()  #: as in Overview
    graphs: frozenset[str] = frozenset()  #: the types of tasks that are graphs of a worker
    unreadable: tuple[str, ...] = ()  #: as in Overview

    def to_look_at(self, limit: int) -> list[AgentBrief]:
        """All agents as a tree, if they are no more than `limit`; otherwise those that most need somebody to look."""
        return self.first(limit, by_tree if len(self.agents) <= limit else by_trouble)

    def first(self, limit: int, key: Callable[[AgentBrief], Any]) -> list[AgentBrief]:
        """The first `limit` agents by that key; those that have the same, as a tree if all of them fit, and otherwise
        by their ids. No more than `limit` are sorted, so that very many cost little."""
        if len(self.agents) <= limit:
            return sorted(sorted(self.agents, key=by_tree), key=key)
        return nsmallest(limit, self.agents, key=lambda agent: (key(agent), agent.agent_id))


def by_tree(agent: AgentBrief) -> Any:
    """Sorts each parent before its children, and these as people count."""
    return [natural_key(address.agent_id) for address in agent.chain]


def by_trouble(agent: AgentBrief) -> Any:
    """Sorts the coordinator first, and then those first that most need somebody to look: by their health; those that
    are not up by how long they are silent, and the others by what waits there and what has failed."""
    silent_ms = 0 if agent.up else agent.silent_ms or 0
    is_below = agent.role is not Role.COORDINATOR
    return is_below, _TROUBLE[agent.health], -silent_ms, -agent.unread, -agent.queued, -agent.failed


def tiers_of(agents: Iterable[AgentBrief]) -> dict[Role, TierCounts]:
    """The counts of each tier."""
    of_tier: dict[Role, list[AgentBrief]] = {role: [] for role in TIERS}
    for agent in agents:
        of_tier[agent.role].append(agent)
    return {role: _counted(of_tier[role]) for role in TIERS}


def _counted(agents: Iterable[AgentBrief]) -> TierCounts:
    by_health: Counter[Health] = Counter()
    unread = running = queued = slots = agent_slots = 0
    for agent in agents:
        by_health[agent.health] += 1
        unread += agent.unread
        if agent.up:
            running += agent.running
            queued += agent.queued
            slots += agent.slots
            agent_slots += agent.agent_slots
    return TierCounts(dict(by_health), unread, running, queued, slots, agent_slots)
