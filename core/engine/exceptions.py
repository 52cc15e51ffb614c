"""What the engine raises, by whose request it was. Programs of the runtime that it descends from know some by name."""

from __future__ import annotations

from collections.abc import Sequence

from core.engine.agent_id import AgentId
from core.errors import UserError

__all__ = [
    "AgentNotFound", "CantHandleException", "EngineClosed", "EngineStopped", "MessageDroppedException",
    "MessageNotSerializable", "NotAccessibleError", "RequestRing", "RequestTimeout",
    "UndeliverableException",
]  # fmt: skip


class CantHandleException(UserError):
    """The agent has no handler for a request of this type, or a subscription cannot map this channel to an agent."""


class UndeliverableException(UserError):
    """The message cannot be delivered, or not any more."""


class AgentNotFound(UndeliverableException, LookupError):
    """There is no such agent, and nothing that could build it."""

    def __init__(self, agent_id: AgentId | str) -> None:
        self.agent_id = agent_id
        super().__init__(f"there is no agent {str(agent_id)!r}. Register its type before anything is sent to it.")


class EngineStopped(UndeliverableException):
    """The engine was stopped before the request had begun. It was not handled."""


class EngineClosed(UserError, RuntimeError):
    """The engine was closed, and takes nothing any more."""


class MessageDroppedException(UserError):
    """An intervention handler has dropped the request, or its response."""


class MessageNotSerializable(UserError, ValueError):
    """No serializer is registered for a message of this type."""


class NotAccessibleError(UserError):
    """The instance of an agent is asked for where it is not. This engine has all of its agents; it never raises it."""


class RequestRing(UserError):
    """The request would wait for itself: whom it asks waits, at the end of the ring, for the one who asks.

    It was not sent. `agents`: the ring, from the one who asks to itself."""

    def __init__(self, agents: Sequence[AgentId]) -> None:
        self.agents = tuple(agents)
        shown = [str(agent) for agent in self.agents]
        if len(shown) > 12:
            shown = [*shown[:6], f"({len(shown) - 12} more)", *shown[-6:]]
        super().__init__(
            f"this request would wait for itself: {' -> '.join(shown)}. Publish the message, or let the engine serve"
            " such requests out of turn: LocalAgentEngine(reentrant=True)."
        )


class RequestTimeout(UserError, TimeoutError):
    """The response was not there within the time limit. The handler, if it had begun, was cancelled."""

    def __init__(self, recipient: AgentId, timeout_s: float) -> None:
        self.recipient, self.timeout_s = recipient, timeout_s
        super().__init__(f"{recipient} has not responded within {timeout_s:g} s")
