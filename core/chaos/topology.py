"""The processes of a run's hierarchy, which faults may hit.

Each has a name, which is also its lane in the picture: `distributor-1`, and `distributor-1b` for its standby.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.chaos.injector import Target
from core.module_names import module_name
from core.redis_backend.keys import AgentKeys, CellKeys, CoordinatorKeys
from core.roles import Role

__all__ = ["COORDINATOR", "Member", "Topology", "topology"]

COORDINATOR = "coordinator-1"


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the hierarchy."""

    lane: str
    role: Role
    agent_id: str
    flags: tuple[str, ...]
    keys: AgentKeys


@dataclass(frozen=True, slots=True)
class Topology:
    """All processes of the hierarchy."""

    members: tuple[Member, ...]

    @property
    def leases(self) -> dict[str, str]:
        """The keys of the leases, by agent id."""
        return {member.agent_id: member.keys.lease for member in self.members}

    @property
    def inboxes(self) -> frozenset[str]:
        return frozenset(member.keys.inbox for member in self.members)

    @property
    def targets(self) -> tuple[Target, ...]:
        seen: set[str] = set()
        targets = []
        for member in self.members:
            targets.append(Target(member.agent_id, standby=member.agent_id in seen))
            seen.add(member.agent_id)
        return tuple(targets)


def topology(distributors: int, workers: int, concurrency: int, *, agents: bool = False) -> Topology:
    """The processes in the order in which they start: a coordinator and its standby, distributors, of which the first
    has a standby, and workers, which are assigned to the distributors in turn.

    The first worker of each distributor also runs plain functions, in child processes, and graphs if `agents` is true;
    the others run only coroutines.
    """
    keys = CoordinatorKeys(COORDINATOR).agent
    members = [
        Member(f"{COORDINATOR}{letter}", Role.COORDINATOR, COORDINATOR, ("--standby",), keys) for letter in ("", "b")
    ]
    below = ("--coordinator", COORDINATOR)
    for number in range(1, distributors + 1):
        name = f"distributor-{number}"
        letters, flags = (("", "b"), (*below, "--standby")) if number == 1 else (("",), below)
        keys = CellKeys(name).agent(COORDINATOR)
        members += [Member(f"{name}{letter}", Role.DISTRIBUTOR, name, flags, keys) for letter in letters]
    for number in range(1, workers + 1):
        name, whose = f"worker-{number}", f"distributor-{(number - 1) % distributors + 1}"
        modules = ["handlers" if number <= distributors else "work"]
        modules += ["agents"] if agents and number <= distributors else []
        imports = [part for module in modules for part in ("--import", module_name(f"core.chaos.{module}"))]
        handlers = (*imports, "--concurrency", f"{concurrency}")
        keys = CellKeys(whose).worker(name)
        members.append(Member(name, Role.WORKER, name, (*below, "--distributor", whose, *handlers), keys))
    return Topology(tuple(members))
