"""A three-tier hierarchy of LangGraph agents over Redis. What programs use is collected here; each name is imported
when it is first asked for, so that a command that needs none of them starts at once."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import would be half of what a probe (`agents healthcheck`) costs
if TYPE_CHECKING:
    from typing import Any

    from core.a2a_messaging import A2AMessage, MessageType
    from core.config import A2AConfig, AgentConfig, RedisConfig
    from core.langgraph_state import LocalAgentState, SharedAgentState
    from core.runtime.client import AgentClient
    from core.tasks import Priority, Task, TaskStatus

__all__ = [
    "A2AConfig",
    "A2AMessage",
    "AgentClient",
    "AgentConfig",
    "LocalAgentState",
    "MessageType",
    "Priority",
    "RedisConfig",
    "SharedAgentState",
    "Task",
    "TaskStatus",
]

_HOME = {
    "A2AConfig": "core.config",
    "A2AMessage": "core.a2a_messaging",
    "AgentClient": "core.runtime.client",
    "AgentConfig": "core.config",
    "LocalAgentState": "core.langgraph_state",
    "MessageType": "core.a2a_messaging",
    "Priority": "core.tasks",
    "RedisConfig": "core.config",
    "SharedAgentState": "core.langgraph_state",
    "Task": "core.tasks",
    "TaskStatus": "core.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
