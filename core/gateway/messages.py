"""The routes of messages between agents, and of the connections that they need."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from core.gateway.access import caller_of
from core.gateway.hierarchy import Hierarchy
from core.gateway.idempotency import IdempotencyKey, RepeatableRequest
from core.gateway.message_bodies import (
    AckBody,
    HistoryBody,
    MessageBody,
    MessagesBody,
    Protocol,
    SentBody,
    check_connected,
    check_message,
)
from core.gateway.peers import Relation
from core.gateway.problems import Problem
from core.gateway.recipients import check_known, those_who_fit
from core.gateway.run_requests import Body
from core.roles import AGENT_ID

__all__ = ["router"]

router = APIRouter(tags=["messages"])

#: Messages wait for whoever reads them, so they are smaller than what tasks are given.
MAX_PAYLOAD_BYTES = 64 * 1024
JSON = "application/json"

AgentId = Annotated[str, Path(pattern=f"^{AGENT_ID.pattern}$")]


class RelationBody(Body):
    relation: Relation = Relation.PEER


class PeersBody(BaseModel):
    """What other agents are to one, by their ids."""

    peers: dict[str, Relation]


class CountBody(BaseModel):
    acknowledged: int


@router.post("/messages/send", operation_id="send_message", status_code=202, response_model=SentBody)
async def send(request: Request, body: MessageBody, idempotency_key: IdempotencyKey = None) -> Response:
    """Sends a message to an agent, or to all that fit. It waits for each until it is acknowledged, or until its time is
    over. A broadcast leaves out those whose mailbox is full."""
    caller_of(request).check_speaks_for(body.sender_id)
    check_message(body)
    if len(orjson.dumps(body.payload)) > MAX_PAYLOAD_BYTES:
        raise Problem(413, f"payload: it has more than {MAX_PAYLOAD_BYTES} bytes; store it, and send where it is")
    repeatable = RepeatableRequest(request, idempotency_key)
    if (before := await repeatable.earlier_answer()) is not None:
        return Response(before, 202, {"Idempotent-Replayed": "true"}, JSON)
    hierarchy: Hierarchy = request.app.state.hierarchy
    receivers = await _receivers(hierarchy, body)
    sent_ms = await hierarchy.mailboxes.now_ms()
    sent_at = datetime.fromtimestamp(sent_ms / 1000, UTC)
    message: dict[str, Any] = {
        **body.model_dump(mode="json", exclude={"agent_type", "capabilities"}),
        "message_id": repeatable.new_id("message") or f"message-{uuid4().hex[:20]}",
        "sent_by": caller_of(request).name,
        "tenant": caller_of(request).tenant,
        "timestamp": sent_at,
        "sent_ms": sent_ms,
    }
    if receivers:
        await hierarchy.mailboxes.send(message, receivers)
    answer = orjson.dumps(
        {
            "message_id": message["message_id"], "receivers": len(receivers), "timestamp": sent_at,
            "expires_at": sent_at + timedelta(seconds=body.ttl_s),
        }
    )  # fmt: skip
    await repeatable.keep(answer)
    return Response(answer, 202, media_type=JSON)


async def _receivers(hierarchy: Hierarchy, body: MessageBody) -> list[str]:
    """To whom a message goes. Raises Problem: it may not go there."""
    if body.protocol is Protocol.BROADCAST:
        fitting = await those_who_fit(hierarchy, body.agent_type, body.capabilities)
        return [name for name in fitting if name != body.sender_id]
    assert body.receiver_id  # check_message has seen to it
    await check_known(hierarchy, body.receiver_id)
    check_connected(body, await hierarchy.peers.relation(body.sender_id, body.receiver_id))
    return [body.receiver_id]


@router.get("/messages/history", operation_id="list_messages", response_model=HistoryBody)
async def history(
    request: Request,
    agent: Annotated[str | None, Query(max_length=64, description="sender or receiver")] = None,
    protocol: Protocol | None = None,
    correlation_id: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,19}-[0-9]{1,19}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """The latest messages, without their payloads, the newest first, page by page. About ten thousand are kept."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    given = {"agent": agent, "protocol": protocol and protocol.value, "correlation_id": correlation_id}
    wanted = {name: value for name, value in given.items() if value is not None}
    if (tenant := caller_of(request).tenant) is not None:
        wanted["tenant"] = tenant
    messages, next_cursor = await hierarchy.mailboxes.history(cursor, limit, wanted)
    return Response(orjson.dumps({"messages": messages, "next_cursor": next_cursor}), media_type=JSON)


@router.get("/agents/{agent_id}/messages", operation_id="receive_messages", response_model=MessagesBody)
async def receive(
    request: Request,
    agent_id: AgentId,
    timeout_s: Annotated[float, Query(ge=0, le=60, description="how long it waits for the first")] = 0.0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """The messages that wait for an agent, the most urgent first. They stay until they are acknowledged, so one that
    was read and not handled comes again."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller = caller_of(request)
    caller.check_speaks_for(agent_id)
    if timeout_s:
        found = await hierarchy.mailboxes.receive(agent_id, limit, timeout_s, caller.tenant)
    else:
        found = await hierarchy.mailboxes.waiting(agent_id, limit, caller.tenant)
    return Response(orjson.dumps({"messages": found}), media_type=JSON)


@router.post("/agents/{agent_id}/messages/ack", operation_id="acknowledge_messages")
async def acknowledge(request: Request, agent_id: AgentId, body: AckBody) -> CountBody:
    """Says that messages were handled; they do not come again. Those that are not there are passed over."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller = caller_of(request)
    caller.check_speaks_for(agent_id)
    message_ids = body.message_ids
    if caller.tenant is not None:
        own = {message["message_id"] for message in await hierarchy.mailboxes.every(agent_id, caller.tenant)}
        message_ids = [message_id for message_id in message_ids if message_id in own]
    return CountBody(acknowledged=await hierarchy.mailboxes.acknowledge(agent_id, message_ids))


@router.get("/agents/{agent_id}/peers", operation_id="list_peers")
async def list_peers(request: Request, agent_id: AgentId) -> PeersBody:
    """What other agents are to this one."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller_of(request).check_speaks_for(agent_id)
    return PeersBody(peers=await hierarchy.peers.of(agent_id))


@router.put("/agents/{agent_id}/peers/{peer_id}", operation_id="add_peer")
async def add_peer(
    request: Request, agent_id: AgentId, peer_id: AgentId, body: RelationBody | None = None
) -> PeersBody:
    """Connects two agents, as peers unless the body says what the second is to the first. It is so for both of them,
    and is kept for thirty days after the last message."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller_of(request).check_speaks_for(agent_id)
    if agent_id == peer_id:
        raise Problem(422, "peer_id: an agent cannot be connected to itself")
    await hierarchy.peers.connect(agent_id, peer_id, body.relation if body else Relation.PEER)
    return PeersBody(peers=await hierarchy.peers.of(agent_id))


@router.delete("/agents/{agent_id}/peers/{peer_id}", operation_id="remove_peer", status_code=204)
async def remove_peer(request: Request, agent_id: AgentId, peer_id: AgentId) -> None:
    """Ends a connection, for both. 404: there is none."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller_of(request).check_speaks_for(agent_id)
    if not await hierarchy.peers.disconnect(agent_id, peer_id):
        raise Problem(404, f"{agent_id!r} and {peer_id!r} are not connected")
