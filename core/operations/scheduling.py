"""How the work of a hierarchy is handed out: by which strategies, and how much room there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from core.agents import Health
from core.config.settings import AgentConfig
from core.operations.overview import read_overview
from core.overview import AgentView
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.roles import Role
from core.status_reports import Beat, Kind
from core.strategies import DEFAULT

__all__ = ["DistributorRoom", "Scheduling", "read_scheduling"]


@dataclass(frozen=True, slots=True)
class DistributorRoom:
    """What a distributor can take, as its last heartbeat says."""

    distributor_id: str
    strategy: str  #: by which it chooses its workers; empty: it has not said
    health: Health
    concurrency: int  #: number of tasks that its workers run at once, besides runs of agents
    agent_concurrency: int  #: number of runs of agents that they have at once
    capacity: int  #: number of tasks that it wants to have at most, runs of agents included
    running: int  #: number of tasks that its workers have
    queued: int  #: number of tasks that wait there
    kinds: tuple[Kind, ...]  #: its workers by their skills


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How the work of a hierarchy is handed out now."""

    strategy: str  #: of the coordinator, and of all distributors that have none of their own
    own: Mapping[str, str]  #: strategies of distributors that have one of their own
    distributors: tuple[DistributorRoom, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        for room, child in zip(self.distributors, told["distributors"], strict=True):
            child["kinds"] = [msgspec.structs.asdict(kind) for kind in room.kinds]
        return told


async def read_scheduling(source: Runs, coordinator_id: str, config: AgentConfig | None = None) -> Scheduling:
    """The strategies and the room of the hierarchy below that coordinator, as stored now: of each distributor whose
    heartbeat is there. Raises TransportDown, ServerRefused."""
    found = await read_overview(source, coordinator_id, config, workers=())
    [stored] = await source.run(("HGET", CoordinatorKeys(coordinator_id).header, "strategies"))
    try:
        own = {str(name): str(strategy) for name, strategy in orjson.loads(stored or b"{}").items()}
    except (ValueError, AttributeError):
        own = {}
    strategy = own.pop("", DEFAULT.value)
    return Scheduling(strategy, own, tuple(map(_room_of, found.of_role(Role.DISTRIBUTOR))))


def _room_of(view: AgentView) -> DistributorRoom:
    beat = view.beat or Beat()
    return DistributorRoom(
        distributor_id=view.agent_id,
        strategy=beat.strategy,
        health=view.health,
        concurrency=sum(kind.concurrency for kind in beat.kinds),
        agent_concurrency=sum(kind.agent_concurrency for kind in beat.kinds),
        capacity=beat.capacity + beat.agent_capacity,
        running=beat.running,
        queued=beat.queued,
        kinds=beat.kinds,
    )
