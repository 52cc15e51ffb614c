"""What a hierarchy looks like from outside at one moment: who is there, who holds which lease, what waits.

Values and one rule. `core.operations.overview` reads them from Redis; the command line and the live view show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from core.agents import Health
from core.langgraph_state import Lease
from core.quotas import QuotaUse
from core.roles import Address, Role
from core.status_reports import Beat

__all__ = ["AgentView", "Overview", "coordinator_silent_ms", "health_at", "types_in"]


@dataclass(frozen=True, slots=True)
class AgentView:
    """One agent, as its lease, its last heartbeat and its keys show it. Heartbeats are taken as stored, unverified."""

    chain: tuple[Address, ...]  #: from the coordinator down to it
    health: Health
    lease: Lease | None  #: None: nobody acts for this id
    beat: Beat | None  #: its last heartbeat; None: none is there (a coordinator sends none)
    silent_ms: int | None  #: since that heartbeat; for a coordinator, since its lease was due for renewal
    started_ms: int | None  #: start of the process that acts, ms since 1970 on the server's clock
    inbox: int  #: number of unread messages
    version: int  #: commits so far
    fence: int  #: the epoch under which its state was last written
    rejected: dict[str, int] = field(default_factory=dict)  #: number of refused messages, by reason
    standbys: tuple[str, ...] = ()  #: processes that wait to act for this id, as `pid@host`

    @property
    def address(self) -> Address:
        return self.chain[-1]

    @property
    def role(self) -> Role:
        return self.chain[-1].role

    @property
    def agent_id(self) -> str:
        return self.chain[-1].agent_id

    @property
    def pid(self) -> int | None:
        """The process that holds the lease, on `host`."""
        return self.lease.pid if self.lease else None

    @property
    def host(self) -> str:
        return self.lease.host if self.lease else self.beat.host if self.beat else ""

    @property
    def up(self) -> bool:
        """Whether it acts or drains, and so can be expected to do something."""
        return self.health in (Health.ACTIVE, Health.DRAINING)

    @property
    def task_types(self) -> frozenset[str]:
        """The types of task that it, or its workers, have handlers for."""
        return types_in(self.beat.capabilities if self.beat else (), own=True)


@dataclass(frozen=True, slots=True)
class Overview:
    """One hierarchy at one moment."""

    coordinator_id: str
    at: datetime  #: the server's clock
    agents: tuple[AgentView, ...]  #: as a tree: the coordinator, each distributor with its workers below it
    open_tasks: int
    ended_tasks: int  #: whose records are still kept
    dead_letters: int  #: the failed ones among them, which wait to be replayed or purged
    quarantined: dict[str, int]  #: rejected messages kept as evidence, by the agent whose cell holds them
    asking: int = 0  #: open tasks that ask a person something
    waiting: dict[str, int] = field(default_factory=dict)  #: how many open tasks wait for what, by WaitingFor
    quotas: Mapping[str, QuotaUse] = field(default_factory=dict)  #: what is used of each, by name
    draining: bool = False  #: whether the coordinator stops
    unreadable: tuple[str, ...] = ()  #: names of stored values that none of our agents wrote

    def of_role(self, role: Role) -> tuple[AgentView, ...]:
        return tuple(agent for agent in self.agents if agent.role is role)

    def agent(self, role: Role, agent_id: str) -> AgentView | None:
        return next((agent for agent in self.agents if agent.address == (role, agent_id)), None)

    @property
    def workers_up(self) -> int:
        """How many workers are up: as far as they were looked at, or as distributors say, if that are more."""
        looked_at = sum(worker.up and worker.beat is not None for worker in self.of_role(Role.WORKER))
        told = sum(
            facts.get("health") == Health.ACTIVE for _, beat in self._hearing() for facts in beat.children.values()
        )
        return max(looked_at, told)

    @property
    def idle_workers(self) -> list[tuple[Address, ...]]:
        """Those that get nothing now, as distributors say: they are silent, or stop."""
        return [
            (*distributor.chain, Address(Role.WORKER, name))
            for distributor, beat in self._hearing()
            for name, facts in beat.children.items()
            if facts.get("health") != Health.ACTIVE
        ]

    @property
    def skill_sets(self) -> list[frozenset[str]]:
        """What running workers can do, each or several alike: as they say, and as distributors say of those that take
        tasks, also of workers that were not looked at."""
        of_kinds = (
            frozenset(kind.skills)
            for _, beat in self._hearing()
            for kind in beat.kinds
            if kind.concurrency or kind.agent_concurrency
        )
        up = (worker for worker in self.of_role(Role.WORKER) if worker.up)
        return [*of_kinds, *(frozenset(worker.beat.capabilities) for worker in up if worker.beat)]

    def _hearing(self) -> Iterator[tuple[AgentView, Beat]]:
        """The distributors that are up, with their last heartbeats."""
        return (
            (agent, agent.beat) for agent in self.agents if agent.role is Role.DISTRIBUTOR and agent.up and agent.beat
        )

    @property
    def task_types(self) -> list[str]:
        """The task types that running workers have handlers for, except those of the system itself."""
        return sorted(types_in(skill for skills in set(self.skill_sets) for skill in skills))


def types_in(skills: Iterable[str], *, own: bool = False) -> frozenset[str]:
    """The task types among these skills; with `own`, those of the system itself as well."""
    types = (skill.removeprefix("task:") for skill in skills if skill.startswith("task:"))
    return frozenset(name for name in types if own or not name.startswith("agents."))


class SaysOfItself(Protocol):
    """What an agent says with its heartbeat of how it is."""

    @property
    def heard(self) -> bool: ...
    @property
    def draining(self) -> bool: ...


def health_at(acts: bool, said: SaysOfItself | None, silent_ms: int | None, failure_timeout_ms: int) -> Health:
    """The health as far as one look shows it: nobody `acts` without a lease; an agent with one that is silent is
    suspect."""
    if not acts:
        return Health.GONE
    if silent_ms is None or silent_ms >= failure_timeout_ms:
        return Health.SUSPECT
    if said is not None and not said.heard:
        return Health.UNHEARD
    return Health.DRAINING if said is not None and said.draining else Health.ACTIVE


def coordinator_silent_ms(lease: Lease, now_ms: int, lease_s: float) -> int:
    """For how long the renewal of a coordinator's lease is overdue. `lease_s`: how long it lasts if it does not say. It
    is renewed after a third of its time, so two thirds are left when the next renewal is due."""
    lasts_s = lease.lease_ms / 1000 if lease.lease_ms else lease_s
    return max(0, now_ms - int((lease.expires_at.timestamp() - lasts_s * 2 / 3) * 1000))
