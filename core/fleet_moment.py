"""A hierarchy at one moment, as `agents top` shows it, and what two moments tell together. Values, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.overview import AgentView, Overview
from core.roles import Role

__all__ = ["AgentLine", "AskedLine", "EventLine", "FleetMoment", "Order", "RunningLine", "lines_of", "rate_between"]


class Order(StrEnum):
    """By what agents are sorted."""

    TREE = "tree"  #: each parent before its children
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
    agents: Sequence[AgentLine] = ()  #: as a tree
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "at": self.at.isoformat()}


def rate_between(before: Overview | None, now: Overview) -> dict[str, float]:
    """By the path of each agent, how many tasks have ended there a second since another look. An agent that has begun
    anew in between counts from nothing."""
    if before is None or (seconds := (now.at - before.at).total_seconds()) <= 0:
        return {}
    ended = {agent.chain: _ended(agent) for agent in before.agents}
    return {
        _path(agent): max(0, _ended(agent) - (known if (known := ended.get(agent.chain, 0)) <= _ended(agent) else 0))
        / seconds
        for agent in now.agents
    }


def lines_of(overview: Overview, rates: dict[str, float], order: Order) -> list[AgentLine]:
    """The agents in that order, those that are gone last."""
    lines = [_line(agent, rates.get(_path(agent), 0.0)) for agent in overview.agents]
    keys: dict[Order, Callable[[AgentLine], Any]] = {
        Order.RATE: lambda line: -line.rate,
        Order.LOAD: lambda line: (-(line.in_flight / line.slots) if line.slots else 0.0, -line.in_flight),
        Order.FAILED: lambda line: -line.failed,
        Order.SILENT: lambda line: -(line.silent_s or 0.0),
    }
    return lines if order is Order.TREE else sorted(lines, key=lambda line: (line.health == "gone", keys[order](line)))


def _line(agent: AgentView, rate: float) -> AgentLine:
    beat = agent.beat
    runs_tasks = beat is not None and agent.role is Role.WORKER
    return AgentLine(
        agent_id=agent.agent_id,
        role=agent.role.value,
        depth=len(agent.chain) - 1,
        health=agent.health.value,
        in_flight=beat.running + beat.queued if beat else 0,
        slots=beat.concurrency if beat and runs_tasks else 0,
        agent_slots=beat.agent_concurrency if beat and beat.agents and runs_tasks else 0,
        done=beat.done if beat else 0,
        failed=beat.failed if beat else 0,
        rate=rate,
        silent_s=None if agent.silent_ms is None else agent.silent_ms / 1000,
        unread=agent.inbox,
    )


def _ended(agent: AgentView) -> int:
    return agent.beat.done + agent.beat.failed if agent.beat else 0


def _path(agent: AgentView) -> str:
    return "/".join(map(str, agent.chain))
