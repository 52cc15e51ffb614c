"""What an agent knows (local state) and what the upper tiers share (shared state).

Local state lives in the agent's memory and goes through its graph; each tier adds its own fields to it. Shared state
lies in Redis in two halves with one writer each, like `spec` and `status` of a Kubernetes object: the coordinator
writes the desired state of a distributor, the distributor its observed state. Each half has a version that counts its
commits from 1, without gaps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AliasChoices, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from core.errors import BadTask
from core.stored import number_in, shown
from core.tasks import Task, utc_now

__all__ = ["AgentStatus", "Lease", "LocalAgentState", "SharedAgentState"]

#: Number of recent events that an agent remembers itself; the full trail is in Redis.
HISTORY_KEPT = 100

T = TypeVar("T")
#: Small enough for all arithmetic that is done with it.
Count = Annotated[int, Field(ge=0, lt=2**53)]


class AgentStatus(StrEnum):
    IDLE = "idle"  #: nothing to do
    BUSY = "busy"  #: has tasks
    ERROR = "error"  #: its last step failed
    RECOVERING = "recovering"  #: reading its state back, or waiting for Redis


@dataclass(slots=True)
class LocalAgentState:
    """One agent's own memory: its tasks, its variables and recent events."""

    agent_id: str
    status: AgentStatus = AgentStatus.IDLE
    local_tasks: dict[str, Task] = field(default_factory=dict)  #: by task id
    draining: bool = False  #: whether it takes nothing new
    last_heartbeat: datetime | None = None  #: when it last sent one
    local_vars: dict[str, Any] = field(default_factory=dict)
    history: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY_KEPT))
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)
    updated_at: datetime = field(default_factory=utc_now)
    read_ms: int = 0  #: when it was read from what is stored, by this process's monotonic clock

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values, tasks as a list."""
        return {
            "agent_id": self.agent_id,
            "status": self.status.value,
            "local_tasks": [task.to_dict() for task in self.local_tasks.values()],
            "last_heartbeat": self.last_heartbeat.isoformat() if self.last_heartbeat else None,
            "local_vars": self.local_vars,
            "history": list(self.history),
            "metadata": self.metadata,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


class Lease(BaseModel):
    """Says who may act for an agent id now. It is stored under its own key, whose TTL ends it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: str  #: the agent's address
    process: str  #: the process that acts for it
    host: str = ""
    incarnation: Count  #: the number of that process's start
    epoch: Count  #: the fence: grows with every grant, and every write carries it
    acquired_at: AwareDatetime
    expires_at: AwareDatetime
    commits: Count = 0  #: number of commits under this lease; makes every renewal visible
    lease_ms: Count = 0  #: how long it lasts without renewal, whatever the server's clock does; 0: not stated
    #: whether the agent's parent holds it for a moment, to take over its tasks; earlier releases say `in_passing`
    takeover: bool = Field(default=False, validation_alias=AliasChoices("takeover", "in_passing"))

    @classmethod
    def from_json(cls, text: bytes) -> Lease:
        return cls.model_validate_json(text)

    @classmethod
    def parse(cls, text: bytes) -> Lease | None:
        """As `from_json`, for text that anybody may have written; None: it is no lease."""
        try:
            return cls.from_json(text)
        except ValidationError:
            return None

    @property
    def pid(self) -> int | None:
        """The process that acts, on `host`."""
        parts = self.process.rsplit("/", 2)
        return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else None


class SharedAgentState(BaseModel):
    """The state of one distributor as both upper tiers see it, assembled from its keys on reading."""

    model_config = ConfigDict(frozen=True)

    distributor_id: str
    coordinator_version: int = 0
    distributor_version: int = 0
    status: AgentStatus = AgentStatus.IDLE
    assigned_workers: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    wanted: dict[str, str] = {}  #: the desired state: task id -> assigned | cancelled
    lease: Lease | None = None
    unreadable: tuple[str, ...] = ()  #: names of what is stored there and is no state, since somebody else wrote it

    @classmethod
    def assemble(
        cls,
        distributor_id: str,
        header: dict[bytes, bytes],
        wanted: dict[bytes, bytes],
        actual: dict[bytes, bytes],
        lease: bytes | None,
    ) -> SharedAgentState | None:
        """The state from the contents of its keys; None when nothing was ever written."""
        if not header:
            return None
        unreadable: list[str] = []
        held = Lease.parse(lease) if lease else None
        if lease and held is None:
            unreadable.append("lease")
        status = header.get(b"status", b"idle").decode(errors="replace")
        if status not in set(AgentStatus):
            unreadable.append("status")
            status = AgentStatus.ERROR
        workers = _each({b"assigned_workers": header.get(b"assigned_workers", b"[]")}, _names, unreadable)
        return cls(
            distributor_id=distributor_id,
            coordinator_version=number_in(header.get(b"coordinator_version")),
            distributor_version=number_in(header.get(b"distributor_version")),
            status=AgentStatus(status),
            assigned_workers=workers.get("assigned_workers", ()),
            tasks=tuple(_each(actual, Task.from_json, unreadable).values()),
            wanted=_each(wanted, lambda want: str(orjson.loads(want)["want"]), unreadable),
            lease=held,
            unreadable=tuple(unreadable),
        )


def _names(text: bytes) -> tuple[str, ...]:
    return tuple(name for name in orjson.loads(text) if isinstance(name, str))


def _each(values: Mapping[bytes, bytes], read: Callable[[bytes], T], unreadable: list[str]) -> dict[str, T]:
    """The value that `read` finds in each of these, by name; the names of unreadable ones go to `unreadable`."""
    found = {}
    for name, value in values.items():
        try:
            found[name.decode()] = read(value)
        except (ValueError, TypeError, KeyError, BadTask):
            unreadable.append(shown(name))
    return found
