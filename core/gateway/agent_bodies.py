"""What agents say of themselves over HTTP, and what is told of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.gateway.problems import Problem
from core.gateway.run_requests import Body
from core.registry.agent_info import NAME_CHARACTERS, AgentInfo, Declared, FleetStatus, Lifecycle, Load
from core.registry.agent_registry import RegistryStats
from core.registry.discovery import MAX_PAGE, Page, Wanted
from core.roles import AGENT_ID
from core.store_index import is_of_an_index

__all__ = [
    "AgentPage", "AgentView", "AttemptsBody", "DiscoverBody", "HeartbeatBody", "HeartbeatView", "ProgressBody",
    "RegisterBody", "ResultBody", "StatsView", "StatusBody", "page_told", "stats_told", "told",
]  # fmt: skip

Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)]
Names = Annotated[list[Name], Field(max_length=1_000)]
AgentId = Annotated[str, Field(pattern=f"^{AGENT_ID.pattern}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Lease = Annotated[float, Field(ge=1, le=3600)]
EXAMPLE: dict[str, Any] = {
    "agent_id": "shell-1", "agent_type": "worker", "services": ["upper"], "capabilities": ["gpu"],
    "tags": ["region=eu"], "concurrency": 1, "lease_s": 30,
}  # fmt: skip


class RegisterBody(Body):
    """An agent that registers. With `services` it is given tasks of these types; without, it is only listed."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    agent_id: AgentId
    agent_type: Literal["worker", "provider", "consumer", "general"] = "worker"
    capabilities: Names = Field(default_factory=list, description="what it can do, besides its services")
    services: Names = Field(default_factory=list, description="the types of tasks that it runs")
    endpoints: dict[Name, Name] = Field(default_factory=dict, max_length=32, description="where it answers")
    metadata: dict[str, Any] = Field(default_factory=dict, description="of at most 256 KiB")
    version: str = Field(default="", max_length=100)
    tags: Names = Field(default_factory=list)
    lease_s: Lease = Field(default=30.0, description="after so much silence it is gone, and others get its tasks")
    concurrency: int = Field(default=1, ge=1, le=1_000, description="how many tasks it works on at once")
    timeout_s: float = Field(default=300.0, gt=0, le=7 * 86_400, description="longest attempt, unless a task says")
    max_attempts: int = Field(default=3, ge=1, le=100, description="unless a task says")
    distributor_id: AgentId | None = Field(default=None, description="who hands it tasks; null: the least busy one")

    def declared(self) -> Declared:
        """What it registers as. Raises Problem: it would be taken for a worker that embeds for the store."""
        for field in ("capabilities", "services"):
            if taken := [name for name in getattr(self, field) if is_of_an_index(name)]:
                raise Problem(422, f"{field}: {taken[0][:80]!r} is a name of our own workers; take another one")
        return Declared(
            agent_id=self.agent_id, agent_type=self.agent_type, capabilities=tuple(self.capabilities),
            services=tuple(self.services), tags=tuple(self.tags), endpoints=self.endpoints, metadata=self.metadata,
            version=self.version,
        )  # fmt: skip


class LoadBody(Body):
    """What an agent has to do, and what it takes, as it has measured itself."""

    in_flight: int = Field(default=0, ge=0, le=10**9)
    capacity: int = Field(default=0, ge=0, le=10**9)
    queue_age_ms: int = Field(default=0, ge=0, le=10**12)
    loop_lag_ms: float = Field(default=0, ge=0, le=1e12)
    cpu: float = Field(default=0, ge=0, le=10_000, description="processors: 1.0 is all of one")
    memory_mb: float = Field(default=0, ge=0, le=1e9)


class HeartbeatBody(Body):
    """A sign of life."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"load_metrics": {"cpu": 0.4}, "holding": ["task-1"]}]})

    load_metrics: LoadBody | None = None
    error_rate: Share = Field(default=0.0, description="of an agent that takes no tasks here")
    holding: list[Annotated[str, Field(max_length=200)]] = Field(
        default_factory=list, max_length=1_000, description="the ids of the tasks that it works on"
    )
    lease_s: Lease | None = Field(default=None, description="null: as before")

    def load(self) -> Load | None:
        return Load(**self.load_metrics.model_dump()) if self.load_metrics is not None else None


class HeartbeatView(BaseModel):
    agent_id: str
    drop: list[str] = Field(description="of what it holds, what is not its own any more: nobody waits for it")


class StatusBody(Body):
    """Whether an agent takes new tasks. Other statuses follow from what it does."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "inactive"}]})

    status: Literal["active", "inactive"]


class ProgressBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"attempt": 1, "fraction": 0.5, "note": "half way"}]})

    attempt: int = Field(ge=1)
    fraction: Share | None = None
    note: str = Field(default="", max_length=1_000)


class ErrorBody(Body):
    type: str = Field(default="error", min_length=1, max_length=200)
    message: str = Field(default="", max_length=4_000)
    retryable: bool = True


class ResultBody(Body):
    """How an attempt has ended."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"attempt": 1, "status": "completed", "result": {"text": "TO BE"}},
                {"attempt": 1, "status": "failed", "error": {"type": "Timeout", "message": "no answer"}},
            ]
        }
    )

    attempt: int = Field(ge=1, description="as it was given")
    status: Literal["completed", "failed"]
    result: Any = Field(default=None, description="any JSON, of at most 256 KiB")
    error: ErrorBody | None = None

    @model_validator(mode="after")
    def _fits(self) -> ResultBody:
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("a failed attempt has an error, and no other has one")
        return self


class ChildView(BaseModel):
    task_id: str
    task_type: str
    status: str
    result: Any
    error: dict[str, Any] | None


class AttemptView(BaseModel):
    """An attempt that is given to an agent."""

    task_id: str
    attempt: int = Field(description="goes back with the answer")
    task_type: str
    payload: Any
    time_left_s: float | None = Field(description="after that an answer comes too late; null: there is no limit")
    idempotency_key: str | None
    metadata: dict[str, Any]
    children: list[ChildView] = Field(description="what a continuation is given")


class AttemptsBody(BaseModel):
    tasks: list[AttemptView]


class AgentView(BaseModel):
    """An agent, as the registry knows it."""

    agent_id: str
    agent_type: str
    status: FleetStatus
    lifecycle: Lifecycle
    health_score: float
    capabilities: list[str]
    services: list[str]
    graphs: list[str]
    tags: list[str]
    endpoints: dict[str, str]
    metadata: dict[str, Any]
    version: str
    load_metrics: dict[str, float]
    registration_time: datetime
    last_heartbeat: datetime
    lease_ms: int
    place: str
    clock_ahead_ms: int | None = Field(description="of its machine, against the server's; null: it does not say")


class AgentPage(BaseModel):
    agents: list[AgentView]
    count: int = Field(description="how many are on this page")
    next: str | None = Field(description="give it as `after` for the next page; null: this is the last one")


class StatsView(BaseModel):
    """How many agents are registered."""

    registered: int
    suspect: int
    by_type: dict[str, int]
    by_status: dict[str, int]
    by_capability: dict[str, int]
    by_service: dict[str, int]
    by_graph: dict[str, int]
    by_tag: dict[str, int]


class DiscoverBody(Body):
    """Which agents: those that fulfil all of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"capabilities": ["gpu"], "min_health": 0.5}]})

    agent_ids: list[AgentId] = Field(default_factory=list, max_length=1_000, description="one of these")
    agent_type: str | None = Field(default=None, max_length=40)
    status: FleetStatus | None = None
    capabilities: Names = Field(default_factory=list, description="all of these")
    services: Names = Field(default_factory=list, description="all of these")
    graph: Name | None = None
    tags: Names = Field(default_factory=list, description="all of these")
    min_health: Share = 0.0
    limit: int = Field(default=100, ge=1, le=MAX_PAGE)
    after: str = Field(default="", max_length=64, description="`next` of the page before")

    def wanted(self) -> Wanted:
        return Wanted(
            agent_ids=tuple(self.agent_ids), agent_type=self.agent_type, status=self.status,
            capabilities=tuple(self.capabilities), services=tuple(self.services), graph=self.graph,
            tags=tuple(self.tags), min_health=self.min_health,
        )  # fmt: skip


def told(info: AgentInfo) -> AgentView:
    return AgentView.model_validate(info.to_dict())


def page_told(page: Page) -> AgentPage:
    return AgentPage(agents=list(map(told, page.agents)), count=len(page.agents), next=page.next)


def stats_told(stats: RegistryStats) -> StatsView:
    return StatsView.model_validate(stats.to_dict())
