"""A hierarchy that runs as processes of one machine: which agents it has, and the record by which it is found.

DATA/hierarchies/COORDINATOR-HASH.json   what runs, written by its supervisor; the hash is that of the Redis address
DATA/hierarchies/COORDINATOR-HASH.lock   held by the supervisor for as long as it lives
DATA/hierarchies/COORDINATOR-HASH.drain  seconds for the next drain, if `agents down` said other than DRAIN_TIMEOUT
DATA/logs/ROLE-ID.log                    what an agent of a detached hierarchy says
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

__all__ = ["AgentPlan", "AgentRecord", "HierarchyFiles", "HierarchyRecord", "plan_agents"]


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One agent to run: its tier's program, and the flags it is started with."""

    address: Address
    flags: tuple[str, ...]


def plan_agents(
    coordinator_id: str,
    *,
    distributors: int,
    workers: int,
    modules: Sequence[str] = (),
    concurrency: int | None = None,
    flags: Sequence[str] = (),
    health_port: int | None = None,
) -> tuple[AgentPlan, ...]:
    """One coordinator, that many distributors, and `workers` workers in all, dealt out to the distributors in turn;
    in the order in which they are started. `flags` are those that every tier understands.
    The first one answers probes at `health_port`, the second one at the port after that, and so on.

    Raises ConfigError when a distributor would be left without a worker.
    """
    if not 1 <= distributors <= workers:
        raise ConfigError(
            f"{workers} workers cannot serve {distributors} distributors: each needs one at least."
            " --workers is the number of all workers together."
        )
    common = ("--coordinator", coordinator_id, *flags)
    worker_flags = [part for module in modules for part in ("--import", module)]
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
    """Distributors of different coordinators lie side by side in one Redis; those of the default one have the short
    names."""
    first = coordinator_id == "coordinator-1"
    return f"distributor-{number}" if first else f"{coordinator_id}.distributor-{number}"


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One process of a hierarchy."""

    role: str
    agent_id: str
    pid: int  #: of the last process
    starts: int = 1
    exit_code: int | None = None  #: None: it runs; negative: ended by that signal

    @property
    def name(self) -> str:
        return f"{self.role}:{self.agent_id}"


@dataclass(frozen=True, slots=True)
class HierarchyRecord:
    """What a supervisor has written about its hierarchy."""

    coordinator_id: str
    redis: str  #: address, without user and password
    pid: int  #: of the supervisor
    process: str  #: machine/pid/start of the supervisor: tells a reused pid apart
    started_at: str  #: UTC, ISO 8601
    ready: bool  #: all agents have been seen at work
    logs: str | None  #: directory of the agents' logs; None: they write to the supervisor's terminal
    agents: tuple[AgentRecord, ...]

    def with_agent(self, agent: AgentRecord) -> HierarchyRecord:
        """The record with this agent's entry put in, or replaced."""
        known = {entry.name: entry for entry in self.agents} | {agent.name: agent}
        return replace(self, agents=tuple(known.values()))

    @property
    def handed_back(self) -> tuple[str, ...]:
        """The agents that drained, and had to hand tasks back."""
        return tuple(agent.name for agent in self.agents if agent.exit_code == 75)


@dataclass(frozen=True, slots=True)
class HierarchyFiles:
    """Where the record of one hierarchy lies: that of this coordinator id at this Redis."""

    data: Path
    name: str

    @classmethod
    def of(cls, redis: RedisConfig, coordinator_id: str) -> Self:
        """Raises ConfigError when the data directory cannot be used."""
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
        """Whether a supervisor holds it now."""
        return is_locked(self.lock)

    def logs(self) -> Path:
        return private_directory(self.data / "logs")

    def log_of(self, name: str) -> Path:
        """The log of an agent (`role:id`) or of the supervisor."""
        return self.logs() / f"{name.replace(':', '-')}.log"

    def write(self, record: HierarchyRecord) -> None:
        write_private(self._file("json"), json.dumps(asdict(record), indent=1))

    def read(self) -> HierarchyRecord | None:
        """What the last supervisor wrote, whether or not it still runs; None: there was none."""
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
        """Sends a signal to the supervisor. False: none runs, or one is starting and has not written its record."""
        record = self.read()
        if record is None or not self.running or provably_dead(record.process):
            return False
        os.kill(record.pid, number)
        return True

    def _file(self, suffix: str) -> Path:
        return self.data / "hierarchies" / f"{self.name}.{suffix}"
