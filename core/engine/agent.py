"""What the engine asks of an agent, and the class that most agents derive from."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Protocol, Self, TypeVar, final, overload, runtime_checkable

from core.engine.agent_engine import AgentEngine
from core.engine.agent_id import AgentId, AgentMetadata, AgentType
from core.engine.cancellation import CancellationToken
from core.engine.channels import (
    DefaultSubscription,
    MessageChannel,
    Subscription,
    TypePrefixSubscription,
    TypeSubscription,
    UnboundSubscription,
)
from core.engine.contexts import AgentInstantiationContext, MessageContext, SubscriptionInstantiationContext
from core.engine.serialization import MessageSerializer, try_get_known_serializers_for_type

__all__ = ["Agent", "BaseAgent", "default_subscription", "handles", "subscription_factory", "type_subscription"]

A = TypeVar("A", bound="type[BaseAgent]")
#: A type of messages, and what reads and writes it.
HandledType = tuple[type[Any], list[MessageSerializer[Any]]]


@runtime_checkable
class Agent(Protocol):
    """What lives in an engine."""

    @property
    def metadata(self) -> AgentMetadata: ...

    @property
    def id(self) -> AgentId: ...

    async def bind_id_and_runtime(self, id: AgentId, runtime: AgentEngine) -> None:
        """Is called when the agent was not built by the engine, but handed to it."""
        ...

    async def on_message(self, message: Any, ctx: MessageContext) -> Any:
        """Handles a message. What it returns is the response."""
        ...

    async def save_state(self) -> Mapping[str, Any]:
        """The state of the agent, as JSON."""
        ...

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes on a state that `save_state` has returned."""
        ...

    async def close(self) -> None:
        """Is called once, when the engine is closed."""
        ...


class BaseAgent(ABC):
    """An agent that knows its id and its engine. A subclass says what becomes of a message: `on_message_impl`."""

    internal_unbound_subscriptions_list: ClassVar[list[UnboundSubscription]] = []
    internal_extra_handles_types: ClassVar[list[HandledType]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.internal_unbound_subscriptions_list = []  # a class subscribes for itself, not for those that derive from it
        cls.internal_extra_handles_types = []

    def __init__(self, description: str) -> None:
        if not isinstance(description, str):
            raise ValueError(f"the description of an agent is text, not {type(description).__name__}")
        self._description = description
        if AgentInstantiationContext.is_in_factory_call():
            self._runtime = AgentInstantiationContext.current_runtime()
            self._id = AgentInstantiationContext.current_agent_id()

    @property
    def id(self) -> AgentId:
        return self._id

    @property
    def type(self) -> str:
        return self._id.type

    @property
    def runtime(self) -> AgentEngine:
        return self._runtime

    @property
    def engine(self) -> AgentEngine:
        return self._runtime

    @property
    def metadata(self) -> AgentMetadata:
        return AgentMetadata(type=self._id.type, key=self._id.key, description=self._description)

    async def bind_id_and_runtime(self, id: AgentId, runtime: AgentEngine) -> None:
        """Raises RuntimeError when the agent has another id, or lives in another engine."""
        if getattr(self, "_id", id) != id:
            raise RuntimeError(f"this agent is {self._id} already, and cannot become {id}")
        if getattr(self, "_runtime", runtime) is not runtime:
            raise RuntimeError(f"{id} lives in another engine already")
        self._id, self._runtime = id, runtime

    @final
    async def on_message(self, message: Any, ctx: MessageContext) -> Any:
        """See `on_message_impl`."""
        return await self.on_message_impl(message, ctx)

    @abstractmethod
    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        """Handles a message. What it returns is the response."""

    async def send_message(
        self,
        message: Any,
        recipient: AgentId,
        *,
        cancellation_token: CancellationToken | None = None,
        message_id: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Any:
        """As the engine's `send_message`, from this agent."""
        return await self._runtime.send_message(
            message, recipient, sender=self._id, cancellation_token=cancellation_token, message_id=message_id,
            timeout_s=timeout_s, priority=priority,
        )  # fmt: skip

    async def publish_message(
        self,
        message: Any,
        message_channel: MessageChannel | None = None,
        *,
        topic_id: MessageChannel | None = None,
        cancellation_token: CancellationToken | None = None,
        message_id: str | None = None,
        ttl_s: float | None = None,
        priority: int = 0,
    ) -> None:
        """As the engine's `publish_message`, from this agent, which does not get it."""
        await self._runtime.publish_message(
            message, message_channel, topic_id=topic_id, sender=self._id, cancellation_token=cancellation_token,
            message_id=message_id, ttl_s=ttl_s, priority=priority,
        )  # fmt: skip

    async def save_state(self) -> Mapping[str, Any]:
        """Nothing, unless a subclass has a state."""
        return {}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Does nothing, unless a subclass has a state."""
        return None

    async def close(self) -> None:
        """Does nothing, unless a subclass holds something."""
        return None

    @classmethod
    async def register(
        cls,
        runtime: AgentEngine,
        type: str,
        factory: Callable[[], Self | Awaitable[Self]],
        *,
        skip_class_subscriptions: bool = False,
        skip_direct_message_subscription: bool = False,
    ) -> AgentType:
        """Has the engine build agents of this type with `factory`, when they are first needed.

        They listen to what the class subscribes to, and to channels whose type begins with `type:`."""
        agent_type = await runtime.register_agent_builder(AgentType(type), factory, expected_class=cls)
        if not skip_class_subscriptions:
            for subscription in await cls._subscriptions_of(agent_type):
                await runtime.subscribe(subscription)
        if not skip_direct_message_subscription:
            await runtime.subscribe(TypePrefixSubscription(f"{agent_type.type}:", agent_type))
        cls._register_serializers(runtime)
        return agent_type

    async def register_instance(
        self,
        runtime: AgentEngine,
        agent_id: AgentId,
        *,
        skip_class_subscriptions: bool = True,
        skip_direct_message_subscription: bool = False,
    ) -> AgentId:
        """Hands this agent to the engine, under this id. It listens to channels whose type is the key of its id."""
        await runtime.register_agent_instance(self, agent_id)
        subscriptions: list[Subscription] = [TypeSubscription(agent_id.key, agent_id.type)]
        if not skip_class_subscriptions:
            subscriptions += await self._subscriptions_of(AgentType(agent_id.type))
        if not skip_direct_message_subscription:
            subscriptions.append(TypePrefixSubscription(f"{agent_id.type}:", agent_id.type))
        for subscription in subscriptions:
            try:
                await runtime.subscribe(subscription)
            except ValueError:
                continue  # another instance of this type was here before
        self._register_serializers(runtime)
        return agent_id

    @classmethod
    async def _subscriptions_of(cls, agent_type: AgentType) -> list[Subscription]:
        found: list[Subscription] = []
        with SubscriptionInstantiationContext.populate_context(agent_type):
            for unbound in cls.internal_unbound_subscriptions_list:
                made = unbound()
                found += await made if inspect.isawaitable(made) else made
        return found

    @classmethod
    def _handles_types(cls) -> list[HandledType]:
        """The types of messages that agents of this class handle, with their serializers."""
        return list(cls.internal_extra_handles_types)

    @classmethod
    def _register_serializers(cls, runtime: AgentEngine) -> None:
        for _, serializers in cls._handles_types():
            runtime.register_msg_serializer(serializers)


def subscription_factory(subscription: UnboundSubscription) -> Callable[[A], A]:
    """A class decorator: agents of the class subscribe to what this makes, under whichever type they are registered."""

    def decorate(cls: A) -> A:
        cls.internal_unbound_subscriptions_list.append(subscription)
        return cls

    return decorate


@overload
def default_subscription(cls: A) -> A: ...


@overload
def default_subscription(cls: None = None) -> Callable[[A], A]: ...


def default_subscription(cls: A | None = None) -> A | Callable[[A], A]:
    """A class decorator, with or without parentheses: agents of the class listen to the default channel."""
    decorate: Callable[[A], A] = type_subscription("default")
    return decorate if cls is None else decorate(cls)


def type_subscription(topic_type: str) -> Callable[[A], A]:
    """A class decorator: agents of the class listen to channels of this type."""
    return subscription_factory(lambda: [DefaultSubscription(topic_type)])


def handles(
    type: type[Any], serializer: MessageSerializer[Any] | list[MessageSerializer[Any]] | None = None
) -> Callable[[A], A]:
    """A class decorator: agents of the class handle messages of this type, which this reads and writes."""
    if serializer is None:
        serializers = try_get_known_serializers_for_type(type)
    else:
        serializers = serializer if isinstance(serializer, list) else [serializer]
    if not serializers:
        raise ValueError(f"no serializer is known for {type.__name__}: name one")

    def decorate(cls: A) -> A:
        cls.internal_extra_handles_types.append((type, serializers))
        return cls

    return decorate
