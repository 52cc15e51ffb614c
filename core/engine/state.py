"""The state of an engine as JSON: of its agents, and what is queued.

It is a dict from the ids of agents to their states, as programs know it, and `queued` beside them when something is.
A message that a handler was at work on counts as queued: it is handled anew after loading. What that handler had
asked others does not, since the handler will ask again."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Iterable, Mapping
from typing import Any

from core.engine.agent_id import AgentId
from core.engine.cancellation import CancellationToken
from core.engine.channels import MessageChannel
from core.engine.envelopes import Envelope, PublishMessageEnvelope, SendMessageEnvelope
from core.engine.exceptions import AgentNotFound, MessageNotSerializable
from core.engine.instances import Instances
from core.engine.mailbox import Call
from core.engine.serialization import JSON_DATA_CONTENT_TYPE, SerializationRegistry, try_get_known_serializers_for_type
from core.engine.work import Work, enter, leave

__all__ = ["QUEUED", "agent_states", "loaded_messages", "saved_messages", "states_to_load"]

#: The key beside the ids of agents, each of which has a slash.
QUEUED = "queued"

#: A message as it is loaded. None: for whoever listens to its channel; else for this agent alone.
Loaded = tuple[Envelope, AgentId | None]


async def agent_states(instances: Instances) -> dict[str, Any]:
    """Of all agents that are there, and of those whose states were loaded before they were built."""
    states = {str(agent_id): dict(state) for agent_id, state in instances.stored.items()}
    for agent_id, agent in list(instances.there.items()):
        token = enter(Work(agent_id))  # so that what it asks others is not held up until it has its answer
        try:
            states[str(agent_id)] = dict(await agent.save_state())
        finally:
            leave(token)
    return states


def states_to_load(state: Mapping[str, Any], instances: Instances) -> dict[AgentId, Mapping[str, Any]]:
    """By their agents. Raises AgentNotFound when there is one that could not be built: nothing is to be loaded."""
    states = {AgentId.from_str(name): of_agent for name, of_agent in state.items() if name != QUEUED}
    unknown = [str(agent_id) for agent_id in states if not instances.knows(agent_id)]
    if unknown:
        raise AgentNotFound(", ".join(unknown))
    return states


def saved_messages(items: Iterable[Call | PublishMessageEnvelope], registry: SerializationRegistry) -> list[Any]:
    """Raises MessageNotSerializable, which names the type."""
    return [_saved(item, registry) for item in items if _is_wanted(item)]


def _is_wanted(item: Call | PublishMessageEnvelope) -> bool:
    """Whether it is to be handled anew: not what a handler will ask again, nor what was cancelled before it began."""
    if isinstance(item, PublishMessageEnvelope):
        return not item.cancellation_token.is_cancelled()
    return item.caller is None and (item.began or not item.envelope.cancellation_token.is_cancelled())


def _saved(item: Call | PublishMessageEnvelope, registry: SerializationRegistry) -> dict[str, Any]:
    envelope = item if isinstance(item, PublishMessageEnvelope) else item.envelope
    name = registry.type_name(envelope.message)
    if not registry.is_registered(name, JSON_DATA_CONTENT_TYPE):
        registry.add_serializer(try_get_known_serializers_for_type(type(envelope.message)))
    payload = registry.serialize(envelope.message, type_name=name, data_content_type=JSON_DATA_CONTENT_TYPE)
    saved: dict[str, Any] = {
        "type": name,
        "payload": payload.decode(),
        "message_id": envelope.message_id,
        "sender": None if envelope.sender is None else str(envelope.sender),
        "recipient": str(item.agent_id) if isinstance(item, Call) else None,
        "priority": envelope.priority,
    }
    if isinstance(envelope, PublishMessageEnvelope):
        saved["channel"] = str(envelope.message_channel)
        if envelope.expires_at is not None:
            saved["ttl_s"] = max(0.0, envelope.expires_at - asyncio.get_running_loop().time())
    return saved


def loaded_messages(state: Mapping[str, Any], instances: Instances, registry: SerializationRegistry) -> list[Loaded]:
    """What was queued. Raises MessageNotSerializable or AgentNotFound for what this engine does not know."""
    return [_loaded(saved, instances, registry) for saved in state.get(QUEUED, ())]


def _loaded(saved: Mapping[str, Any], instances: Instances, registry: SerializationRegistry) -> Loaded:
    if not registry.is_registered(saved["type"], JSON_DATA_CONTENT_TYPE):
        raise MessageNotSerializable(
            f"messages of type {saved['type']} were queued, and no serializer for them is registered here."
            " Register the agents that handle them, or a serializer, before the state is loaded."
        )
    recipient = None if saved["recipient"] is None else AgentId.from_str(saved["recipient"])
    if recipient is not None and not instances.knows(recipient):
        raise AgentNotFound(recipient)
    common: dict[str, Any] = {
        "message": registry.deserialize(
            saved["payload"].encode(), type_name=saved["type"], data_content_type=JSON_DATA_CONTENT_TYPE
        ),
        "message_id": saved["message_id"],
        "sender": None if saved["sender"] is None else AgentId.from_str(saved["sender"]),
        "cancellation_token": CancellationToken(),
        "priority": saved["priority"],
    }
    loop = asyncio.get_running_loop()
    if recipient is not None and "channel" not in saved:
        future: Future[Any] = loop.create_future()
        return SendMessageEnvelope(recipient=recipient, future=future, **common), recipient
    expires_at = loop.time() + saved["ttl_s"] if "ttl_s" in saved else None
    channel = MessageChannel.from_str(saved["channel"])
    return PublishMessageEnvelope(message_channel=channel, expires_at=expires_at, **common), recipient
