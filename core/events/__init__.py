"""Events in use. What programs import is collected here; each name is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import costs more than all of this
if TYPE_CHECKING:
    from typing import Any

    from core.agent_event import AgentEvent
    from core.event_types import EventType
    from core.events.agent_stream import AgentCoordinator
    from core.events.bridge import StreamBridge
    from core.events.bus import EventBus
    from core.events.subscription import EventHandler, HandlerError, Overflow, Subscription

__all__ = [
    "AgentCoordinator", "AgentEvent", "EventBus", "EventHandler", "EventType", "HandlerError", "Overflow",
    "StreamBridge", "Subscription",
]  # fmt: skip

_HOME = {
    "AgentCoordinator": ".agent_stream",
    "AgentEvent": "..agent_event",
    "EventBus": ".bus",
    "EventHandler": ".subscription",
    "EventType": "..event_types",
    "HandlerError": ".subscription",
    "Overflow": ".subscription",
    "StreamBridge": ".bridge",
    "Subscription": ".subscription",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
