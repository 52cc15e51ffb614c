"""Messages on their way."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.engine.agent_id import AgentId
from core.engine.cancellation import CancellationToken
from core.engine.channels import MessageChannel

__all__ = [
    "Envelope", "MessageKind", "PublishMessageEnvelope", "ResponseMessageEnvelope", "SendMessageEnvelope",
    "receiver_of",
]  # fmt: skip


class MessageKind(StrEnum):
    """What becomes of a message."""

    DIRECT = "direct"  #: one agent handles it, and responds
    PUBLISH = "publish"  #: all handle it that listen to its channel
    RESPOND = "respond"  #: somebody waits for it


@dataclass(slots=True, kw_only=True)
class SendMessageEnvelope:
    """A message to one agent. `future` gets what that responds or raises."""

    message: Any
    message_id: str
    sender: AgentId | None
    recipient: AgentId
    future: Future[Any]
    cancellation_token: CancellationToken
    priority: int = 0
    metadata: Mapping[str, str] | None = None  #: the trace that it belongs to, as in W3C's Trace Context


@dataclass(slots=True, kw_only=True)
class PublishMessageEnvelope:
    """A message to all that listen to a channel."""

    message: Any
    message_id: str
    sender: AgentId | None
    message_channel: MessageChannel
    cancellation_token: CancellationToken
    priority: int = 0
    expires_at: float | None = None  #: on the clock of the event loop: from then on nobody begins to handle it
    metadata: Mapping[str, str] | None = None


@dataclass(slots=True, kw_only=True)
class ResponseMessageEnvelope:
    """What an agent has responded, for `future`."""

    message: Any
    message_id: str  #: of the request
    sender: AgentId
    recipient: AgentId | None
    future: Future[Any]
    metadata: Mapping[str, str] | None = None


Envelope = SendMessageEnvelope | PublishMessageEnvelope


def receiver_of(envelope: Envelope) -> AgentId | MessageChannel:
    """The agent or the channel that it was sent to."""
    return envelope.recipient if isinstance(envelope, SendMessageEnvelope) else envelope.message_channel
