"""A hierarchy that runs as processes of one machine: its agents, and the record by which other commands find it.

DATA/hierarchies/COORDINATOR-HASH.json   the record, written by the supervisor; the hash is that of the Redis address
DATA/hierarchies/COORDINATOR-HASH.lock   held by the supervisor as long as it lives
DATA/hierarchies/COORDINATOR-HASH.drain  seconds for the next drain, if `agents down` got another than DRAIN_TIMEOUT
DATA/logs/ROLE-ID.log                    the output of an agent of a detached hierarchy
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from core.config.directories import directory_of, private_directory
from core.config.settings import RedisConfig
from core.errors import ConfigError
from core.machine.file_lock import is_locked
from core.machine.private_files import write_private
from core.machine.process_identity import provably_dead
from core.roles import Address, Role

__all__ = ["AgentPlan", "AgentRecord", "HierarchyFiles", "HierarchyRecord", "distributor_name", "plan_agents"]


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One agent to run, and the flags with which its tier's program is started."""

    address: Address
    flags: tuple[str, ...]


def plan_agents(
    coordinator_id: str,
    *,
    distributors: int,
    workers: int,
    modules: Sequence[str] = (),
    projects: Sequence[str] = (),
    concurrency: int | None = None,
    flags: Sequence[str] = (),
    health_port: int | None = None,
) -> tuple[AgentPlan, ...]:
    """The agents of a hierarchy, in the order in which they start: one coordinator, `distributors` distributors, and
    `workers` workers in total, which are assigned to the distributors in turn. All agents get `flags`. The first agent
    answers probes at `health_port`, the second at the next port, and so on.

    Raises ConfigError when a distributor would have no worker.
    """
    if not 1 <= distributors <= workers:
        raise ConfigError(
            f"{workers} workers cannot serve {distributors} distributors: each needs one at least."
            " --workers is the number of all workers together."
        )
    common = ("--coordinator", coordinator_id, *flags)
    worker_flags = [part for module in modules for part in ("--import", module)]
    worker_flags += [part for project in projects for part in ("--langgraph", project)]
    if concurrency is not None:
        worker_flags += ["--concurrency", str(concurrency)]
    plans = [AgentPlan(Address.of(Role.COORDINATOR, coordinator_id), ("--id", coordinator_id, *flags))]
    for number in range(1, distributors + 1):
        name = distributor_name(coordinator_id, number)
        plans.append(AgentPlan(Address.of(Role.DISTRIBUTOR, name), ("--id", name, *common)))
    for number in range(1, workers + 1):
        name, whose = f"worker-{number}", distributor_name(coordinator_id, (number - 1) % distributors + 1)
        plans.append(
            AgentPlan(Address.of(Role.WORKER, name), ("--id", name, "--distributor", whose, *common, *worker_flags))
        )
    if health_port is not None:
        plans = [
            replace(plan, flags=(*plan.flags, "--health-port", f"{health_port + index}"))
            for index, plan in enumerate(plans)
        ]
    return tuple(plans)


def distributor_name(coordinator_id: str, number: int) -> str:
    """The id of a distributor. Since coordinators may share a Redis, it contains the coordinator's id, except that of
    the default coordinator."""
    first = coordinator_id == "coordinator-1"
    return f"distributor-{number}" if first else f"{coordinator_id}.distributor-{number}"


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One process of a hierarchy."""

    role: str
    agent_id: str
    pid: int  #: of its latest process
    starts: int = 1  #: number of its starts
    exit_code: int | None = None  #: None: it runs; negative: that signal ended it

    @property
    def name(self) -> str:
        return f"{self.role}:{self.agent_id}"


@dataclass(frozen=True, slots=True)
class HierarchyRecord:
    """The record that a supervisor writes about its hierarchy."""

    coordinator_id: str
    redis: str  #: address, without user and password
    pid: int  #: of the supervisor
    process: str  #: machine/pid/start of the supervisor, since its pid may be reused
    started_at: str  #: UTC, ISO 8601
    ready: bool  #: whether all agents have run at the same time
    logs: str | None  #: directory of the agents' logs; None: they write to the supervisor's terminal
    agents: tuple[AgentRecord, ...]

    def with_agent(self, agent: AgentRecord) -> HierarchyRecord:
        """The record with this agent's entry, which is added or replaced."""
        known = {entry.name: entry for entry in self.agents} | {agent.name: agent}
        return replace(self, agents=tuple(known.values()))

    @property
    def handed_back(self) -> tuple[str, ...]:
        """The names of the agents that had to hand tasks back when they drained."""
        return tuple(agent.name for agent in self.agents if agent.exit_code == 75)


@dataclass(frozen=True, slots=True)
class HierarchyFiles:
    """The files of one hierarchy, which is known by its coordinator id and its Redis."""

    data: Path
    name: str

    @classmethod
    def of(cls, redis: RedisConfig, coordinator_id: str) -> Self:
        """The files of a coordinator's hierarchy. Raises ConfigError when the data directory cannot be used."""
        data = directory_of(redis)
        private_directory(data / "hierarchies")
        digest = hashlib.sha256(str(redis.endpoint).encode()).hexdigest()[:8]
        return cls(data, f"{coordinator_id}-{digest}")

    @property
    def lock(self) -> Path:
        return self._file("lock")

    @property
    def drain_order(self) -> Path:
        return self._file("drain")

    @property
    def running(self) -> bool:
        """Whether its supervisor lives."""
        return is_locked(self.lock)

    def logs(self) -> Path:
        return private_directory(self.data / "logs")

    def log_of(self, name: str) -> Path:
        """The log of an agent (`role:id`) or of the supervisor."""
        return self.logs() / f"{name.replace(':', '-')}.log"

    def write(self, record: HierarchyRecord) -> None:
        write_private(self._file("json"), json.dumps(asdict(record), indent=1))

    def read(self) -> HierarchyRecord | None:
        """The record of the last supervisor, whether or not it still runs; None: there is none. Raises ConfigError when
        the file is something else."""
        try:
            fields: dict[str, Any] = json.loads(self._file("json").read_bytes())
            agents = tuple(AgentRecord(**agent) for agent in fields.pop("agents"))
            return HierarchyRecord(**fields, agents=agents)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self._file('json')} is no record of a hierarchy ({error}). Remove the file."
            ) from error

    def signal(self, number: int) -> bool:
        """Sends a signal to the supervisor. Returns whether it could: False if none runs, or one is starting and has
        not written its record yet."""
        record = self.read()
        if record is None or not self.running or provably_dead(record.process):
            return False
        os.kill(record.pid, number)
        return True

    def _file(self, suffix: str) -> Path:
        return self.data / "hierarchies" / f"{self.name}.{suffix}"
