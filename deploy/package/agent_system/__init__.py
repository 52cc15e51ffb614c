"""A chain of command for LangGraph agents over Redis. What programs and the authors of tasks import is collected here:
`from agent_system import AgentClient, Task, agent, task`. Each name is loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import would be half of what a probe (`agents healthcheck`) costs
if TYPE_CHECKING:
    from coordinator.agent import CoordinatorAgent
    from coordinator.state import CoordinatorState
    from core import (
        A2AConfig,
        A2AMessage,
        AgentClient,
        AgentConfig,
        Budget,
        LoadBalancer,
        LocalAgentState,
        MessageType,
        Priority,
        RedisConfig,
        RunOptions,
        Schedule,
        SharedAgentState,
        Task,
        TaskDistributor,
        TaskPriority,
        TaskStatus,
    )
    from core.errors import (
        AgentSystemError,
        AnswerRefused,
        BadSchedule,
        BadTask,
        BudgetExhausted,
        ConfigError,
        DelegationRefused,
        EventLoopError,
        LeaseHeld,
        LeaseLost,
        PeerError,
        RaceLost,
        ServerRefused,
        TaskFailed,
        TaskLost,
        TaskRefused,
        TaskTimeout,
        TransportDown,
        UnknownSchedule,
        UnknownTask,
        UserError,
        WorldError,
    )
    from core.local.hierarchy import LocalHierarchy
    from core.registry.agent_info import AgentInfo
    from core.registry.agent_registry import AgentRegistry
    from core.registry.discovery import AgentDiscoveryService
    from core.registry.source import registry_source
    from core.submissions import submitted_tasks
    from core.tier_graph import After, Before, TickContext, TickState
    from core.waits import Question
    from distributor.agent import DistributorAgent
    from distributor.state import DistributorState
    from worker import ChildOutcome, Context, ModelLimit, Spawn, agent, as_tool, ask, current_context, delegate, task
    from worker.agent import WorkerAgent
else:
    try:
        import_module(".core", __name__)
    except ModuleNotFoundError:  # a checkout, where it is a package of its own
        import_module("._checkout", __name__).share_modules()

    def __getattr__(name):
        for home in _HOMES if name in __all__ else ():
            if hasattr(module := import_module(home, __name__), name):
                return getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "A2AConfig",
    "A2AMessage",
    "After",
    "AgentClient",
    "AgentConfig",
    "AgentDiscoveryService",
    "AgentInfo",
    "AgentRegistry",
    "AgentSystemError",
    "AnswerRefused",
    "BadSchedule",
    "BadTask",
    "Before",
    "Budget",
    "BudgetExhausted",
    "ChildOutcome",
    "ConfigError",
    "Context",
    "CoordinatorAgent",
    "CoordinatorState",
    "DelegationRefused",
    "DistributorAgent",
    "DistributorState",
    "EventLoopError",
    "LeaseHeld",
    "LeaseLost",
    "LoadBalancer",
    "LocalAgentState",
    "LocalHierarchy",
    "MessageType",
    "ModelLimit",
    "PeerError",
    "Priority",
    "Question",
    "RaceLost",
    "RedisConfig",
    "RunOptions",
    "Schedule",
    "ServerRefused",
    "SharedAgentState",
    "Spawn",
    "Task",
    "TaskDistributor",
    "TaskFailed",
    "TaskLost",
    "TaskPriority",
    "TaskRefused",
    "TaskStatus",
    "TaskTimeout",
    "TickContext",
    "TickState",
    "TransportDown",
    "UnknownSchedule",
    "UnknownTask",
    "UserError",
    "WorkerAgent",
    "WorldError",
    "agent",
    "as_tool",
    "ask",
    "current_context",
    "delegate",
    "registry_source",
    "submitted_tasks",
    "task",
]

#: Where they are looked for, what takes longest to import last.
_HOMES = (
    ".core", ".core.errors", ".worker", ".coordinator.state", ".distributor.state", ".core.submissions", ".core.waits",
    ".coordinator.agent", ".distributor.agent", ".worker.agent", ".core.local.hierarchy", ".core.tier_graph",
    ".core.registry.discovery", ".core.registry.agent_registry", ".core.registry.source",
)  # fmt: skip
