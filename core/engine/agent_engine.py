"""What agents, and programs that hold one, may ask of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from core.engine.agent_id import AgentId, AgentMetadata, AgentType
from core.engine.cancellation import CancellationToken
from core.engine.channels import MessageChannel, Subscription
from core.engine.serialization import MessageSerializer

if TYPE_CHECKING:
    from core.engine.agent import Agent

__all__ = ["AgentEngine"]

T = TypeVar("T", bound="Agent")


class AgentEngine(ABC):
    """Where agents live and messages are delivered. Some methods have a second name, for programs of AutoGen's."""

    @abstractmethod
    async def send_message(
        self,
        message: Any,
        recipient: AgentId,
        *,
        sender: AgentId | None = None,
        cancellation_token: CancellationToken | None = None,
        message_id: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Any:
        """Sends a message to one agent and returns what it responds."""

    @abstractmethod
    async def publish_message(
        self,
        message: Any,
        message_channel: MessageChannel | None = None,
        *,
        topic_id: MessageChannel | None = None,
        sender: AgentId | None = None,
        cancellation_token: CancellationToken | None = None,
        message_id: str | None = None,
        ttl_s: float | None = None,
        priority: int = 0,
    ) -> None:
        """Sends a message to all agents that listen to the channel, except for the sender."""

    @abstractmethod
    async def register_agent_builder(
        self,
        type: str | AgentType,
        agent_builder: Callable[[], T | Awaitable[T]],
        *,
        expected_class: type[T] | None = None,
    ) -> AgentType:
        """Has agents of this type built when they are first needed."""

    async def register_factory(
        self,
        type: str | AgentType,
        agent_factory: Callable[[], T | Awaitable[T]],
        *,
        expected_class: type[T] | None = None,
    ) -> AgentType:
        """As `register_agent_builder`."""
        return await self.register_agent_builder(type, agent_factory, expected_class=expected_class)

    @abstractmethod
    async def register_agent_instance(self, agent_instance: Agent, agent_id: AgentId) -> AgentId:
        """Takes in an agent that is there already, under this id."""

    @abstractmethod
    async def try_get_underlying_agent_instance(self, id: AgentId, type: type[T] | None = None) -> T:
        """The agent itself. It is built if it was not yet."""

    @abstractmethod
    async def get(
        self, id_or_type: AgentId | AgentType | str, /, key: str = "default", *, lazy: bool = True
    ) -> AgentId:
        """The id of an agent. Unless `lazy`, it is built if it was not yet."""

    @abstractmethod
    async def agent_metadata(self, agent: AgentId) -> AgentMetadata:
        """What the agent says of itself."""

    @abstractmethod
    async def save_state(self) -> Mapping[str, Any]:
        """The state of all agents and of what is queued, as JSON."""

    @abstractmethod
    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes on a state that `save_state` has returned."""

    @abstractmethod
    async def agent_save_state(self, agent: AgentId) -> Mapping[str, Any]:
        """The state of one agent."""

    @abstractmethod
    async def agent_load_state(self, agent: AgentId, state: Mapping[str, Any]) -> None:
        """Gives one agent a state."""

    @abstractmethod
    async def subscribe(self, subscription: Subscription) -> None:
        """From now on, what is published to matching channels goes to the agent that the subscription names."""

    async def add_subscription(self, subscription: Subscription) -> None:
        """As `subscribe`."""
        await self.subscribe(subscription)

    @abstractmethod
    async def unsubscribe(self, id: str) -> None:
        """Ends a subscription."""

    async def remove_subscription(self, id: str) -> None:
        """As `unsubscribe`."""
        await self.unsubscribe(id)

    @abstractmethod
    def register_msg_serializer(self, serializer: MessageSerializer[Any] | Sequence[MessageSerializer[Any]]) -> None:
        """Messages of its type can be saved and loaded from now on."""

    def add_message_serializer(self, serializer: MessageSerializer[Any] | Sequence[MessageSerializer[Any]]) -> None:
        """As `register_msg_serializer`."""
        self.register_msg_serializer(serializer)
