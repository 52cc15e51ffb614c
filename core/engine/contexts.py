"""What a handler is told of its message, and what code can ask about where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.engine.agent_id import AgentId, AgentType
from core.engine.cancellation import CancellationToken

if TYPE_CHECKING:
    from core.engine.agent_engine import AgentEngine
    from core.engine.channels import MessageChannel

__all__ = [
    "AgentInstantiationContext", "MessageContext", "MessageHandlerContext", "SubscriptionInstantiationContext",
]  # fmt: skip

_handling: ContextVar[AgentId] = ContextVar("agent_that_handles")
_instantiating: ContextVar[tuple[AgentEngine, AgentId]] = ContextVar("agent_that_is_instantiated")
_subscribing: ContextVar[AgentType] = ContextVar("type_that_is_subscribed")


@dataclass(slots=True)
class MessageContext:
    """Of one message, for its handler."""

    sender: AgentId | None  #: None: it came from outside of all agents
    message_channel: MessageChannel | None  #: what it was published to; None: it was sent to this agent alone
    is_rpc: bool  #: whether the sender waits for a response
    cancellation_token: CancellationToken
    message_id: str

    @property
    def topic_id(self) -> MessageChannel | None:
        """The other name of `message_channel`."""
        return self.message_channel


class _Static:
    """A namespace."""

    def __init__(self) -> None:
        raise RuntimeError(f"{type(self).__name__} has no instances. Call its class methods.")


class MessageHandlerContext(_Static):
    """Of the handler that this code runs in."""

    @classmethod
    def agent_id(cls) -> AgentId:
        """The agent whose handler runs. Raises RuntimeError outside of handlers."""
        found = _handling.get(None)
        if found is None:
            raise RuntimeError("no handler runs here: MessageHandlerContext.agent_id() is for handlers of messages")
        return found

    @classmethod
    @contextmanager
    def populate_context(cls, ctx: AgentId) -> Iterator[None]:
        """Within the block it is as in a handler of this agent."""
        token = _handling.set(ctx)
        try:
            yield
        finally:
            _handling.reset(token)

    @classmethod
    def enter(cls, ctx: AgentId) -> None:
        """As `populate_context`, to the end of this task."""
        _handling.set(ctx)


class AgentInstantiationContext(_Static):
    """Of the agent that is built: for its builder, and for its constructor."""

    @classmethod
    def current_runtime(cls) -> AgentEngine:
        """The engine that the agent will live in. Raises RuntimeError where none is built."""
        return cls._current()[0]

    current_engine = current_runtime

    @classmethod
    def current_agent_id(cls) -> AgentId:
        """The id that the agent will have. Raises RuntimeError where none is built."""
        return cls._current()[1]

    @classmethod
    def is_in_factory_call(cls) -> bool:
        """Whether an agent is built here."""
        return _instantiating.get(None) is not None

    @classmethod
    @contextmanager
    def populate_context(cls, ctx: tuple[AgentEngine, AgentId]) -> Iterator[None]:
        """Within the block it is as in a builder that this engine calls for this agent."""
        token = _instantiating.set(ctx)
        try:
            yield
        finally:
            _instantiating.reset(token)

    @classmethod
    def _current(cls) -> tuple[AgentEngine, AgentId]:
        found = _instantiating.get(None)
        if found is None:
            raise RuntimeError(
                "no agent is built here: AgentInstantiationContext is for builders and constructors of agents that"
                " an engine builds. Register the type, and let the engine call the builder."
            )
        return found


class SubscriptionInstantiationContext(_Static):
    """Of the type whose subscriptions are made."""

    @classmethod
    def agent_type(cls) -> AgentType:
        """The type that is registered. Raises RuntimeError elsewhere."""
        found = _subscribing.get(None)
        if found is None:
            raise RuntimeError("no type is registered here: name the type of the agents that subscribe")
        return found

    @classmethod
    @contextmanager
    def populate_context(cls, ctx: AgentType) -> Iterator[None]:
        """Within the block it is as in the registration of this type."""
        token = _subscribing.set(ctx)
        try:
            yield
        finally:
            _subscribing.reset(token)
