"""Which agents an engine has and can build, what they listen to, and how their messages are written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from core.engine.agent import Agent
from core.engine.agent_engine import AgentEngine
from core.engine.agent_id import AgentId, AgentMetadata, AgentType
from core.engine.channels import Subscription
from core.engine.instances import Instances
from core.engine.serialization import MessageSerializer, SerializationRegistry
from core.engine.subscriptions import SubscriptionManager

__all__ = ["Registration"]

T = TypeVar("T", bound=Agent)


class Registration(AgentEngine):
    """The half of an engine that needs no messages."""

    def __init__(self, not_built: Callable[[AgentId, Exception], None]) -> None:
        self._instances = Instances(self, not_built)
        self._subscriptions = SubscriptionManager()
        self._registry = SerializationRegistry()

    async def register_agent_builder(
        self,
        type: str | AgentType,
        agent_builder: Callable[[], T | Awaitable[T]],
        *,
        expected_class: type[T] | None = None,
    ) -> AgentType:
        """Has agents of this type built when they are first needed, each once. Raises ValueError for a type that is
        taken.

        Within the builder, AgentInstantiationContext knows engine and id. An agent that is not of `expected_class` is
        refused when it is built."""
        agent_type = type if isinstance(type, AgentType) else AgentType(type)
        AgentId(agent_type, "default")  # which checks the type
        self._instances.register(agent_type.type, agent_builder, expected_class)
        return agent_type

    async def register_agent_instance(self, agent_instance: Agent, agent_id: AgentId) -> AgentId:
        """Takes in an agent that is there already, under this id. Raises ValueError when the id is taken, or its type
        has a builder, or agents of another class."""
        await self._instances.take_in(agent_instance, agent_id)
        return agent_id

    async def try_get_underlying_agent_instance(self, id: AgentId, type: type[T] | None = None) -> T:
        """The agent itself. Raises AgentNotFound, a LookupError; TypeError if it is not of this type."""
        agent = await self._instances.instance(id)
        if type is not None and not isinstance(agent, type):
            raise TypeError(f"{id} is a {agent.__class__.__name__}, and not a {type.__name__}")
        return agent  # type: ignore[return-value]

    async def get(
        self, id_or_type: AgentId | AgentType | str, /, key: str = "default", *, lazy: bool = True
    ) -> AgentId:
        """The id of an agent. Unless `lazy`, it is built if it was not yet; raises AgentNotFound."""
        agent_id = id_or_type if isinstance(id_or_type, AgentId) else AgentId(id_or_type, key)
        if not lazy:
            await self._instances.instance(agent_id)
        return agent_id

    async def agent_metadata(self, agent: AgentId) -> AgentMetadata:
        """What the agent says of itself. Raises AgentNotFound."""
        return (await self._instances.instance(agent)).metadata

    async def subscribe(self, subscription: Subscription) -> None:
        """From now on, what is published to matching channels goes to the agent that the subscription names. Raises
        ValueError when there is one that means the same."""
        self._subscriptions.subscribe(subscription)

    async def unsubscribe(self, id: str) -> None:
        """Ends a subscription. Raises ValueError when there is none of this id."""
        self._subscriptions.unsubscribe(id)

    def register_msg_serializer(self, serializer: MessageSerializer[Any] | Sequence[MessageSerializer[Any]]) -> None:
        """Messages of its type can be saved and loaded from now on."""
        self._registry.add_serializer(serializer)

    async def agent_save_state(self, agent: AgentId) -> Mapping[str, Any]:
        """The state of one agent. Raises AgentNotFound."""
        return await (await self._instances.instance(agent)).save_state()

    async def agent_load_state(self, agent: AgentId, state: Mapping[str, Any]) -> None:
        """Gives one agent a state. Raises AgentNotFound."""
        await (await self._instances.instance(agent)).load_state(state)
