"""An agent as the registry knows it. Values: nothing here reads or writes.

What is stored was written by whoever may write there, so it is read with bounds, and what cannot be understood is no
agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from core.errors import BadAgent
from core.registry.health import health_at, suspect_ms
from core.roles import AGENT_ID
from core.stored import moment

__all__ = [
    "AGENT_TYPES", "DEFAULT_LEASE_MS", "AgentInfo", "Declared", "FleetStatus", "Lifecycle", "Load", "Vital",
    "fields_of", "fields_of_vital", "info_of", "status_of",
]  # fmt: skip

#: Tiers of a hierarchy, and what agents from elsewhere may call themselves.
AGENT_TYPES = ("coordinator", "distributor", "worker", "provider", "consumer", "general")
DEFAULT_LEASE_MS = 30_000
MIN_LEASE_MS, MAX_LEASE_MS = 1_000, 3600 * 1000
MAX_NAMES, NAME_CHARACTERS = 4_096, 210
#: The longest description of one agent, in bytes of JSON.
MAX_BYTES = 256 * 1024


class Lifecycle(StrEnum):
    """Where an agent is in its life, whatever it has to do."""

    JOINING = "joining"  #: it has started, and its parent has not heard it yet
    ACTIVE = "active"
    DRAINING = "draining"  #: it finishes what it has, and takes nothing new
    SUSPECT = "suspect"  #: it is silent for half of its lease
    GONE = "gone"  #: it has left, or its lease is over


class FleetStatus(StrEnum):
    """The status as a client sees it, which follows from lifecycle and load."""

    ACTIVE = "active"
    BUSY = "busy"  #: it has as many tasks as it can work on
    INACTIVE = "inactive"  #: it takes no tasks: it joins, drains, pauses or is gone
    STALE = "stale"  #: it is suspect


#: What is counted or measured of an agent.
Number = Annotated[int, Meta(ge=0, le=2**52)]
Measure = Annotated[float, Meta(ge=0, le=2.0**52)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Load(Struct, frozen=True, kw_only=True):
    """What an agent has to do, and what it takes, as measured."""

    in_flight: Number = 0  #: tasks that it has
    capacity: Number = 0  #: tasks that it works on at once; 0: it has no such bound
    queue_age_ms: Number = 0  #: how long the oldest of its tasks has waited for a place; 0: none waits
    loop_lag_ms: Measure = 0.0  #: how late its event loop is
    cpu: Measure = 0.0  #: processors that its process uses: 1.0 is all of one
    memory_mb: Measure = 0.0  #: resident memory of its process, MiB


class Declared(Struct, frozen=True, kw_only=True):
    """What an agent says of itself when it registers. Raises BadAgent from `check`."""

    agent_id: str
    agent_type: str = "general"
    capabilities: tuple[str, ...] = ()  #: what it can do, besides its services
    services: tuple[str, ...] = ()  #: the types of tasks that it runs
    graphs: tuple[str, ...] = ()  #: those of its services that are LangGraph graphs
    tags: tuple[str, ...] = ()  #: words of operators, such as `region=eu`
    endpoints: dict[str, str] = {}  #: where it answers, by what for
    metadata: dict[str, Any] = {}
    version: str = ""  #: of its program

    def check(self) -> None:
        """Raises BadAgent, which names the field and what it takes."""
        if not AGENT_ID.fullmatch(self.agent_id):
            raise BadAgent("agent_id: takes 1 to 64 letters, digits, '_', '.', '-', the first a letter or digit")
        if self.agent_type not in AGENT_TYPES:
            raise BadAgent(f"agent_type: {self.agent_type[:40]!r} is none of {', '.join(AGENT_TYPES)}")
        for field in ("capabilities", "services", "graphs", "tags"):
            names = getattr(self, field)
            if len(names) > MAX_NAMES or not all(_is_name(name) for name in names):
                raise BadAgent(
                    f"{field}: takes at most {MAX_NAMES} texts of 1 to {NAME_CHARACTERS} characters, none of them a"
                    " control character"
                )
        if len(msgspec.json.encode(self)) > MAX_BYTES:
            raise BadAgent(f"what is said of {self.agent_id} takes more than {MAX_BYTES} bytes: shorten its metadata")

    def indexes(self) -> list[str]:
        """The names of the indexes in which it is listed, besides that of its status."""
        kinds = (
            ("type", (self.agent_type,)), ("capability", self.capabilities), ("service", self.services),
            ("graph", self.graphs), ("tag", self.tags),
        )  # fmt: skip
        return ["all", *dict.fromkeys(f"{kind}:{name}" for kind, names in kinds for name in names)]


class Vital(Struct, frozen=True, kw_only=True):
    """What changes from heartbeat to heartbeat."""

    lifecycle: Lifecycle = Lifecycle.ACTIVE
    load: Load = Load()
    health_score: float = 1.0
    regularity: float = 1.0
    is_paused: bool = False  #: it takes no tasks for now
    clock_ahead_ms: int | None = None  #: how far the clock of its machine is ahead of the server's; None: not measured

    @property
    def status(self) -> FleetStatus:
        return status_of(self.lifecycle, self.load, is_paused=self.is_paused)


class AgentInfo(Struct, frozen=True, kw_only=True):
    """An agent at one moment."""

    agent_id: str
    agent_type: str
    status: FleetStatus
    lifecycle: Lifecycle
    health_score: float  #: 0.0 to 1.0, see core.registry.health
    capabilities: tuple[str, ...]
    services: tuple[str, ...]
    graphs: tuple[str, ...]
    tags: tuple[str, ...]
    endpoints: dict[str, str]
    metadata: dict[str, Any]
    version: str
    load_metrics: Load
    registration_time: datetime
    last_heartbeat: datetime
    lease_ms: int
    place: str  #: the addresses from its coordinator down to it, or where it has registered
    incarnation: int  #: the number of its start
    regularity: float  #: how punctual its heartbeats are, 0.0 to 1.0
    is_paused: bool  #: whether it takes no tasks for now, although it is active
    clock_ahead_ms: int | None  #: how far the clock of its machine is ahead of the server's; None: it does not say

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told


def status_of(lifecycle: Lifecycle, load: Load, *, is_paused: bool = False) -> FleetStatus:
    """The status that follows from how an agent lives and what it has to do."""
    if lifecycle is Lifecycle.SUSPECT:
        return FleetStatus.STALE
    if lifecycle is not Lifecycle.ACTIVE or is_paused:
        return FleetStatus.INACTIVE
    return FleetStatus.BUSY if load.capacity and load.in_flight >= load.capacity else FleetStatus.ACTIVE


def info_of(fields: Mapping[bytes, bytes], now_ms: int) -> AgentInfo | None:
    """The agent in a record, as it is at `now_ms` on the server's clock; None: there is none that can be read."""
    try:
        record = msgspec.convert(
            {(field := name.decode()): _value(field, text) for name, text in fields.items()}, _Record, strict=False
        )
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    silent_ms = now_ms - record.last_heartbeat
    lifecycle, status = record.lifecycle, record.status
    if lifecycle is not Lifecycle.GONE:
        if silent_ms >= record.lease_ms:
            lifecycle, status = Lifecycle.GONE, FleetStatus.INACTIVE
        elif silent_ms >= suspect_ms(record.lease_ms):
            lifecycle, status = Lifecycle.SUSPECT, FleetStatus.STALE
    health = 0.0 if lifecycle is Lifecycle.GONE else health_at(record.health_score, silent_ms, record.lease_ms)
    return AgentInfo(
        agent_id=record.agent_id, agent_type=record.agent_type, status=status, lifecycle=lifecycle,
        health_score=round(health, 3), capabilities=record.capabilities, services=record.services,
        graphs=record.graphs, tags=record.tags, endpoints=record.endpoints, metadata=record.metadata,
        version=record.version, load_metrics=record.load_metrics,
        registration_time=moment(record.registration_time), last_heartbeat=moment(record.last_heartbeat),
        lease_ms=record.lease_ms, place=record.place, incarnation=record.incarnation, regularity=record.regularity,
        is_paused=record.is_paused, clock_ahead_ms=record.clock_ahead_ms,
    )  # fmt: skip


def fields_of(declared: Declared) -> list[str | bytes]:
    """Names and values of what is declared, as they are stored."""
    told = msgspec.to_builtins(declared)
    told.pop("agent_id")  # the script stores it
    return [part for name, value in told.items() for part in (name, _stored(value))]


def fields_of_vital(vital: Vital) -> list[str | bytes]:
    """As `fields_of`, of what changes with a heartbeat."""
    told = (
        ("lifecycle", vital.lifecycle), ("status", vital.status), ("load_metrics", vital.load),
        ("health_score", round(vital.health_score, 4)), ("regularity", round(vital.regularity, 4)),
        ("is_paused", vital.is_paused), ("clock_ahead_ms", vital.clock_ahead_ms),
    )  # fmt: skip
    return [part for name, value in told if value is not None for part in (name, _stored(value))]


class _Record(Struct, kw_only=True):
    agent_id: str
    place: str
    incarnation: int
    agent_type: str = "general"
    status: FleetStatus = FleetStatus.INACTIVE
    lifecycle: Lifecycle = Lifecycle.GONE
    capabilities: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    graphs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    endpoints: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    version: str = ""
    load_metrics: Load = Load()
    health_score: Share = 1.0
    regularity: Share = 1.0
    is_paused: bool = False
    clock_ahead_ms: Annotated[int, Meta(ge=-(2**52), le=2**52)] | None = None
    registration_time: Number = 0
    last_heartbeat: Number = 0
    lease_ms: Annotated[int, Meta(ge=1, le=2**40)] = DEFAULT_LEASE_MS


_JSON = frozenset({"capabilities", "services", "graphs", "tags", "endpoints", "metadata", "load_metrics", "is_paused"})


def _value(name: str, text: bytes) -> Any:
    return msgspec.json.decode(text) if name in _JSON else text.decode()


def _stored(value: Any) -> str | bytes:
    return value if isinstance(value, str) else msgspec.json.encode(value)


def _is_name(name: str) -> bool:
    return 1 <= len(name) <= NAME_CHARACTERS and name.isprintable()
