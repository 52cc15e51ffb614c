"""What messages are published to, and who wants them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from core.engine.agent_id import AgentId, AgentType
from core.engine.contexts import MessageHandlerContext, SubscriptionInstantiationContext
from core.engine.exceptions import CantHandleException

__all__ = [
    "DefaultSubscription", "DefaultTopicId", "MessageChannel", "Subscription", "TopicId", "TypePrefixSubscription",
    "TypeSubscription", "UnboundSubscription",
]  # fmt: skip

_TYPE = re.compile(r"[\w\-.:=]+")


@dataclass(frozen=True)
class MessageChannel:
    """What a message is published to: a type of things that happen, and their source. Its text is `type/source`.

    Raises ValueError for a type that is not made of letters, digits, `_`, `-`, `.`, `:` and `=`."""

    type: str
    source: str

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.type):
            raise ValueError(f"{self.type!r} is no type of channels. Use letters, digits, '_', '-', '.', ':' and '='.")

    def __str__(self) -> str:
        return f"{self.type}/{self.source}"

    @classmethod
    def from_str(cls, channel: str) -> Self:
        """The channel with this text. Raises ValueError for text without a slash."""
        name, slash, source = channel.partition("/")
        if not slash:
            raise ValueError(f"{channel!r} is no channel. Write it as type/source.")
        return cls(name, source)


TopicId = MessageChannel


class DefaultTopicId(MessageChannel):
    """The channel for who needs no other. Its source is the key of the agent whose handler runs here, or `default`."""

    def __init__(self, type: str = "default", source: str | None = None) -> None:
        if source is None:
            try:
                source = MessageHandlerContext.agent_id().key
            except RuntimeError:
                source = "default"
        super().__init__(type, source)

    def __eq__(self, other: object) -> bool:
        """As the channel that it is."""
        if not isinstance(other, MessageChannel):
            return NotImplemented
        return (self.type, self.source) == (other.type, other.source)

    __hash__ = MessageChannel.__hash__


@runtime_checkable
class Subscription(Protocol):
    """Which channels an agent listens to, and which agent that is."""

    @property
    def id(self) -> str:
        """What it is ended by."""
        ...

    def is_match(self, topic_id: MessageChannel, /) -> bool:
        """Whether it is about this channel."""
        ...

    def map_to_agent(self, topic_id: MessageChannel, /) -> AgentId:
        """Whom a message of this channel goes to."""
        ...


#: What a class of agents subscribes to, for whichever type it is registered as.
UnboundSubscription = Callable[[], list[Subscription] | Awaitable[list[Subscription]]]


class _OfATopicType:
    """Channels by their type; each source has an agent of its own."""

    def __init__(self, topic_type: str, agent_type: str | AgentType, id: str | None = None) -> None:
        self._topic_type = topic_type
        self._agent_type = agent_type.type if isinstance(agent_type, AgentType) else agent_type
        self._id = id or str(uuid.uuid4())

    @property
    def id(self) -> str:
        return self._id

    @property
    def agent_type(self) -> str:
        return self._agent_type

    def is_match(self, topic_id: MessageChannel, /) -> bool:
        raise NotImplementedError

    def map_to_agent(self, topic_id: MessageChannel, /) -> AgentId:
        """The agent whose key is the channel's source. Raises CantHandleException for a channel of another type."""
        if not self.is_match(topic_id):
            raise CantHandleException(f"this subscription is not about {topic_id}")
        return AgentId(self._agent_type, topic_id.source)

    def _means(self) -> tuple[type, str, str]:
        kind = TypePrefixSubscription if isinstance(self, TypePrefixSubscription) else TypeSubscription
        return kind, self._topic_type, self._agent_type

    def __eq__(self, other: object) -> bool:
        """Whether it is the same subscription, or means the same."""
        return isinstance(other, _OfATopicType) and (self.id == other.id or self._means() == other._means())

    def __hash__(self) -> int:
        return hash(self._means())


class TypeSubscription(_OfATopicType):
    """Agents of that type listen to all channels of `topic_type`. Each source has an agent of its own, by its key."""

    @property
    def topic_type(self) -> str:
        return self._topic_type

    def is_match(self, topic_id: MessageChannel, /) -> bool:
        return topic_id.type == self._topic_type


class TypePrefixSubscription(_OfATopicType):
    """As TypeSubscription, for all types that begin so."""

    def __init__(self, topic_type_prefix: str, agent_type: str | AgentType, id: str | None = None) -> None:
        super().__init__(topic_type_prefix, agent_type, id)

    @property
    def topic_type_prefix(self) -> str:
        return self._topic_type

    def is_match(self, topic_id: MessageChannel, /) -> bool:
        return topic_id.type.startswith(self._topic_type)


class DefaultSubscription(TypeSubscription):
    """A subscription of the type that is registered. Raises CantHandleException where none is, unless it is named."""

    def __init__(self, topic_type: str = "default", agent_type: str | AgentType | None = None) -> None:
        if agent_type is None:
            try:
                agent_type = SubscriptionInstantiationContext.agent_type()
            except RuntimeError as error:
                raise CantHandleException("name the agent_type: this is no registration of one") from error
        super().__init__(topic_type, agent_type)
