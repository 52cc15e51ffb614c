"""A three-tier hierarchy of LangGraph agents over Redis. What programs use is collected here; each name is imported
when it is first asked for, so that a command that needs none of them starts at once."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import would be half of what a probe (`agents healthcheck`) costs
if TYPE_CHECKING:
    from typing import Any

    from core.a2a_messaging import A2AMessage, MessageType
    from core.agent_run import RunOptions
    from core.budget import Budget
    from core.client.agent_client import AgentClient
    from core.client.load_balancer import LoadBalancer, TaskDistributor, TaskPriority
    from core.config.settings import A2AConfig, AgentConfig, RedisConfig
    from core.langgraph_state import LocalAgentState, SharedAgentState
    from core.schedules import Schedule
    from core.tasks import Priority, Task, TaskStatus

__all__ = [
    "A2AConfig",
    "A2AMessage",
    "AgentClient",
    "AgentConfig",
    "Budget",
    "LoadBalancer",
    "LocalAgentState",
    "MessageType",
    "Priority",
    "RedisConfig",
    "RunOptions",
    "Schedule",
    "SharedAgentState",
    "Task",
    "TaskDistributor",
    "TaskPriority",
    "TaskStatus",
]

_HOME = {
    "A2AConfig": ".config.settings",
    "A2AMessage": ".a2a_messaging",
    "AgentClient": ".client.agent_client",
    "AgentConfig": ".config.settings",
    "Budget": ".budget",
    "LoadBalancer": ".client.load_balancer",
    "LocalAgentState": ".langgraph_state",
    "MessageType": ".a2a_messaging",
    "Priority": ".tasks",
    "RedisConfig": ".config.settings",
    "RunOptions": ".agent_run",
    "Schedule": ".schedules",
    "SharedAgentState": ".langgraph_state",
    "Task": ".tasks",
    "TaskDistributor": ".client.load_balancer",
    "TaskPriority": ".client.load_balancer",
    "TaskStatus": ".tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
