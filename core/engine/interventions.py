"""Handlers that see every message before its recipient does, and may count, change, drop or refuse it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol, final

from core.engine.agent_id import AgentId
from core.engine.contexts import MessageContext
from core.engine.exceptions import MessageDroppedException

__all__ = ["DefaultInterventionHandler", "DropMessage", "InterventionHandler", "Interventions"]


@final
class DropMessage:
    """What an intervention handler returns, the class or an instance, for a message that nobody is to get."""


class InterventionHandler(Protocol):
    """Called in the order in which an engine was given them, each with what the one before has returned.

    Each method returns the message, the same or another, or DropMessage; what it raises is raised to whoever sends,
    publishes or waits for the response. None means no change, with a warning."""

    async def on_send(
        self, message: Any, *, message_context: MessageContext, recipient: AgentId
    ) -> Any | type[DropMessage]: ...

    async def on_publish(self, message: Any, *, message_context: MessageContext) -> Any | type[DropMessage]: ...

    async def on_response(
        self, message: Any, *, sender: AgentId, recipient: AgentId | None
    ) -> Any | type[DropMessage]: ...


class DefaultInterventionHandler:
    """Changes nothing. A subclass overrides what it is about."""

    async def on_send(
        self, message: Any, *, message_context: MessageContext, recipient: AgentId
    ) -> Any | type[DropMessage]:
        return message

    async def on_publish(self, message: Any, *, message_context: MessageContext) -> Any | type[DropMessage]:
        return message

    async def on_response(self, message: Any, *, sender: AgentId, recipient: AgentId | None) -> Any | type[DropMessage]:
        return message


class Interventions:
    """The intervention handlers of an engine. Each method returns the message as the last of them has left it, and
    raises MessageDroppedException when one drops it, or what one raises."""

    def __init__(self, handlers: Sequence[InterventionHandler]) -> None:
        self._handlers = tuple(handlers)

    def __bool__(self) -> bool:
        return bool(self._handlers)

    async def on_send(self, message: Any, context: MessageContext, recipient: AgentId) -> Any:
        for handler in self._handlers:
            returned = await handler.on_send(message, message_context=context, recipient=recipient)
            message = _left_by(handler, returned, message)
        return message

    async def on_publish(self, message: Any, context: MessageContext) -> Any:
        for handler in self._handlers:
            message = _left_by(handler, await handler.on_publish(message, message_context=context), message)
        return message

    async def on_response(self, message: Any, sender: AgentId, recipient: AgentId | None) -> Any:
        for handler in self._handlers:
            returned = await handler.on_response(message, sender=sender, recipient=recipient)
            message = _left_by(handler, returned, message)
        return message


def _left_by(handler: InterventionHandler, returned: Any, message: Any) -> Any:
    name = type(handler).__name__
    if returned is DropMessage or isinstance(returned, DropMessage):
        raise MessageDroppedException(f"{name} has dropped the message")
    if returned is None and message is not None:
        warnings.warn(
            f"{name} has returned None, which changes nothing. Return the message, or DropMessage.",
            RuntimeWarning,
            stacklevel=3,
        )
        return message
    return returned
