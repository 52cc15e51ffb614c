"""A hierarchy at one moment, as `agents top` shows it, and what two moments tell together. Values, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.agents import Health
from core.fleet_counts import AgentBrief, FleetCounts, TierCounts
from core.roles import Address, Role

__all__ = ["AgentLine", "AskedLine", "EventLine", "FleetMoment", "Order", "RunningLine", "lines_of", "rate_between"]

Chain = tuple[Address, ...]


class Order(StrEnum):
    """By what agents are sorted."""

    TREE = "tree"  #: each parent before its children; of very many, those that most need somebody to look
    RATE = "rate"
    LOAD = "load"
    FAILED = "failed"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class AgentLine:
    """One agent."""

    agent_id: str
    role: str
    depth: int  #: 0: the coordinator
    health: str
    in_flight: int
    slots: int  #: tasks that it runs at once, besides runs of agents; 0: it runs none
    agent_slots: int  #: runs of agents that it has at once
    done: int
    failed: int
    rate: float  #: tasks a second that have ended there; 0 before a second look
    silent_s: float | None  #: since its last sign of life
    unread: int  #: messages in its inbox


@dataclass(frozen=True, slots=True)
class RunningLine:
    """A task that runs, or the run of an agent."""

    task_id: str
    task_type: str
    worker: str
    attempt: int
    runs_s: float


@dataclass(frozen=True, slots=True)
class AskedLine:
    """An open question."""

    task_id: str
    asks: str
    waits_s: float


@dataclass(frozen=True, slots=True)
class EventLine:
    """Something that has happened, in words."""

    text: str
    colour: str | None


@dataclass(frozen=True, slots=True)
class FleetMoment:
    """Everything that one look has found."""

    coordinator_id: str
    at: datetime  #: by the server's clock
    tiers: Mapping[Role, TierCounts] = field(default_factory=dict)  #: how many agents there are, and how they are
    agents: Sequence[AgentLine] = ()  #: the first of them, in the order that was asked for
    open_tasks: int = 0
    running: int = 0
    slots: int = 0
    agent_slots: int = 0
    asking: int = 0
    dead_letters: int = 0
    rate: float = 0.0  #: tasks a second
    rates: Sequence[float] = ()  #: of the last looks, the oldest first
    oldest_waiting_s: float | None = None  #: of the tasks that nobody runs; None: none waits
    waiting: dict[str, int] = field(default_factory=dict)  #: how many tasks wait for which reason
    slowest: Sequence[RunningLine] = ()  #: among the oldest open tasks
    questions: Sequence[AskedLine] = ()
    events: Sequence[EventLine] = ()  #: the newest last
    problem: str = ""  #: why nothing newer could be read; empty: it could

    @property
    def has_all_agents(self) -> bool:
        """Whether no agent is missing among the lines."""
        return len(self.agents) >= sum(tier.agents for tier in self.tiers.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        tiers = {role.value: tier.to_dict() for role, tier in self.tiers.items()}
        return {**asdict(self), "at": self.at.isoformat(), "tiers": tiers}


def rate_between(before: FleetCounts | None, now: FleetCounts) -> dict[Chain, float]:
    """How many tasks have ended a second since another look, at each agent where some have. An agent that has begun
    anew in between counts from nothing."""
    if before is None or (seconds := (now.at - before.at).total_seconds()) <= 0:
        return {}
    ended = {agent.chain: agent.done + agent.failed for agent in before.agents}
    rates = {}
    for agent in now.agents:
        number = agent.done + agent.failed
        known = ended.get(agent.chain, 0)
        if number != known:
            rates[agent.chain] = (number - known if known <= number else number) / seconds
    return rates


def lines_of(counts: FleetCounts, rates: Mapping[Chain, float], order: Order, limit: int) -> list[AgentLine]:
    """The first `limit` agents in that order, those that are gone last. As a tree, if all of them fit; otherwise those
    instead that most need somebody to look."""
    keys: dict[Order, Callable[[AgentBrief], Any]] = {
        Order.RATE: lambda agent: -rates.get(agent.chain, 0.0),
        Order.LOAD: lambda agent: (-agent.in_flight / agent.slots if agent.slots else 0.0, -agent.in_flight),
        Order.FAILED: lambda agent: -agent.failed,
        Order.SILENT: lambda agent: -(agent.silent_ms or 0),
    }
    if order is Order.TREE:
        chosen = counts.to_look_at(limit)
    else:
        chosen = counts.first(limit, lambda agent: (agent.health is Health.GONE, keys[order](agent)))
    return [_line(agent, rates.get(agent.chain, 0.0)) for agent in chosen]


def _line(agent: AgentBrief, rate: float) -> AgentLine:
    return AgentLine(
        agent_id=agent.agent_id,
        role=agent.role.value,
        depth=len(agent.chain) - 1,
        health=agent.health.value,
        in_flight=agent.in_flight,
        slots=agent.slots,
        agent_slots=agent.agent_slots,
        done=agent.done,
        failed=agent.failed,
        rate=rate,
        silent_s=None if agent.silent_ms is None else agent.silent_ms / 1000,
        unread=agent.unread,
    )
