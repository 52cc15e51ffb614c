"""Events, for programs: `from agent_system.events import AgentEvent, EventBus, EventType`. Each name is loaded when it
is first asked for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `agent_system`
if TYPE_CHECKING:
    from core.events import (
        AgentCoordinator,
        AgentEvent,
        EventBus,
        EventHandler,
        EventType,
        HandlerError,
        Overflow,
        StreamBridge,
        Subscription,
    )
else:

    def __getattr__(name):
        return getattr(import_module(".core.events", __package__), name)


__all__ = [
    "AgentCoordinator", "AgentEvent", "EventBus", "EventHandler", "EventType", "HandlerError", "Overflow",
    "StreamBridge", "Subscription",
]  # fmt: skip
