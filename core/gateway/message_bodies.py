"""What agents say to each other through a gateway, and which of it is refused."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from core.gateway.peers import Relation
from core.gateway.problems import Problem
from core.gateway.run_requests import Body
from core.roles import AGENT_ID

__all__ = [
    "AckBody",
    "HistoryBody",
    "MessageBody",
    "MessagesBody",
    "Protocol",
    "SentBody",
    "check_connected",
    "check_message",
]

AgentName = Annotated[str, Field(pattern=f"^{AGENT_ID.pattern}$")]
MessageName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class Protocol(StrEnum):
    """To whom a message may go."""

    HIERARCHICAL = "hierarchical"  #: from a superior to its subordinate, or the other way
    PEER_TO_PEER = "peer_to_peer"  #: between two peers
    BROADCAST = "broadcast"  #: to all agents that fit


class MessageType(StrEnum):
    DIRECT = "direct"
    BROADCAST = "broadcast"
    HIERARCHICAL = "hierarchical"
    PEER_TO_PEER = "peer_to_peer"
    COORDINATION = "coordination"
    TASK_ASSIGNMENT = "task_assignment"
    STATUS_UPDATE = "status_update"
    HEARTBEAT = "heartbeat"
    DISCOVERY = "discovery"
    CONSENSUS = "consensus"


class MessagePriority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


#: Which connection each protocol needs between sender and receiver.
NEEDED = {
    Protocol.PEER_TO_PEER: (Relation.PEER,),
    Protocol.HIERARCHICAL: (Relation.SUBORDINATE, Relation.SUPERIOR),
}
#: What is said of a message of the type `consensus`.
NO_CONSENSUS = (
    "message_type: there is no protocol of consensus here, so the messages of one would promise what nobody holds. The"
    " coordinator decides, under a lease with a fence: submit a task, or send `coordination`"
)


class MessageBody(Body):
    """A message of an agent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"sender_id": "a", "receiver_id": "b", "protocol": "peer_to_peer", "payload": {"hello": 1}}]
        }
    )

    sender_id: AgentName
    receiver_id: AgentName | None = Field(default=None, description="needed, but for a broadcast")
    protocol: Protocol
    message_type: MessageType = MessageType.DIRECT
    priority: MessagePriority = MessagePriority.NORMAL
    payload: Any = Field(default=None, description="any JSON, of at most 64 KiB")
    correlation_id: str | None = Field(default=None, max_length=200, description="what the message belongs to")
    reply_to: MessageName | None = Field(default=None, description="the message that it answers")
    ttl_s: float = Field(
        default=300.0, ge=1, le=86_400, description="after which it is discarded, by the server's clock"
    )
    agent_type: str | None = Field(default=None, max_length=100, description="of a broadcast: only to these")
    capabilities: list[Annotated[str, Field(max_length=200)]] = Field(
        default_factory=list, max_length=32, description="of a broadcast: only to agents that have all of these"
    )


class SentBody(BaseModel):
    message_id: str
    receivers: int = Field(description="how many agents it was sent to")
    timestamp: datetime
    expires_at: datetime


class MessageHead(BaseModel):
    """A message without its payload."""

    message_id: str
    sender_id: str
    sent_by: str = Field(description="whose key or token it was sent with")
    tenant: str | None = Field(default=None, description="whose key or token that is; null: of no tenant")
    receiver_id: str | None = Field(description="null: it was a broadcast")
    protocol: Protocol
    message_type: MessageType
    priority: MessagePriority
    correlation_id: str | None
    reply_to: str | None
    ttl_s: float
    timestamp: datetime


class MessageView(MessageHead):
    payload: Any


class MessagesBody(BaseModel):
    messages: list[MessageView]


class HistoryBody(BaseModel):
    messages: list[MessageHead]
    next_cursor: str | None = Field(description="the cursor of the next page; null: this is the last")


class AckBody(Body):
    message_ids: list[MessageName] = Field(min_length=1, max_length=1000)


def check_message(body: MessageBody) -> None:
    """Raises Problem for a message that contradicts itself, or that nobody here can keep."""
    if body.message_type is MessageType.CONSENSUS:
        raise Problem(422, NO_CONSENSUS)
    if body.message_type.value in set(Protocol) and body.message_type.value != body.protocol:
        raise Problem(422, f"message_type: {body.message_type} contradicts protocol {body.protocol}; give one of both")
    if body.protocol is not Protocol.BROADCAST:
        if body.receiver_id is None:
            raise Problem(422, f"receiver_id: missing; {body.protocol} needs one")
        if body.agent_type is not None or body.capabilities:
            raise Problem(422, "agent_type, capabilities: these choose who gets a broadcast; leave them out")
    elif body.receiver_id is not None:
        raise Problem(422, "receiver_id: a broadcast goes to all that fit agent_type and capabilities; leave it out")


def check_connected(body: MessageBody, relation: Relation | None) -> None:
    """Raises Problem unless what the receiver is to the sender is what the protocol asks for."""
    if relation not in (needed := NEEDED[body.protocol]):
        raise Problem(
            409,
            f"{body.receiver_id!r} is no {' or '.join(needed)} of {body.sender_id!r}, which {body.protocol} needs:"
            f" PUT /agents/{body.sender_id}/peers/{body.receiver_id} connects them",
        )
