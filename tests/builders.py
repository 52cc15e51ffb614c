"""Values for tests of rules: what an agent would have been sent, in few words, and what a step would send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from msgspec import Raw
from msgspec.structs import replace

from core.a2a_messaging import A2AMessage, MessageType, Metadata
from core.agents import Subordinate
from core.roles import Action, Address, Role
from core.signing import ReplayWindow
from core.status_reports import Beat, status_report
from core.step import TYPE_OF_ACTION, Batch, HeartbeatDue, Received, Step, Table
from core.tasks import Task

__all__ = [
    "CLIENT", "COORDINATOR", "DISTRIBUTOR", "NOW", "SECRET", "WORKER", "a_batch", "a_beat", "a_child", "a_message",
    "a_task", "items", "message_to", "record", "sent", "taken",
]  # fmt: skip

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SECRET = b"a root secret for tests"

CLIENT = Address(Role.CLIENT, "client-1")
COORDINATOR = Address(Role.COORDINATOR, "coordinator-1")
DISTRIBUTOR = Address(Role.DISTRIBUTOR, "distributor-1")
WORKER = Address(Role.WORKER, "worker-1")


def a_task(task_id: str = "t", **fields: Any) -> Task:
    return Task(**{"task_id": task_id, "task_type": "sum", "created_at": NOW, **fields})


def a_message(sender: Address, recipient: Address, action: str, *, number: int = 1, **fields: Any) -> A2AMessage:
    """A message with one payload field for each of `fields`, save those that belong to its metadata."""
    known = ("timestamp", "incarnation", "audience", "parent_request_id", "request_id", "version")
    metadata = {
        "origin": sender.agent_id,
        "timestamp": int(NOW.timestamp() * 1000),
        "incarnation": 1,
        "sequence_number": number,
        "request_id": f"request-{number}",
        **{name: fields.pop(name) for name in known if name in fields},
    }
    return A2AMessage(
        type=TYPE_OF_ACTION[Action(action)] if action in list(Action) else MessageType.EVENT,
        sender=sender.agent_id,
        recipient=recipient.agent_id,
        payload={"action": action, **fields},
        metadata=Metadata(**metadata),
    )


def message_to(me: Address) -> Callable[..., Received]:
    """How tests of one tier write what its agent `me` has received: `to_me(WORKER, Action.TASK_RESULT, [item])`."""

    def to_me(sender: Address, action: str, tasks: Sequence[Any] = (), **fields: Any) -> Received:
        # Through JSON and back, as over the wire.
        items = [Raw(orjson.dumps(_plain(item))) for item in tasks]
        message = replace(a_message(sender, me, action, **fields), tasks=items)
        return Received(sender, message, b"1-1", None, status_report(sender.role, action, message.payload))

    return to_me


def items(message: A2AMessage | Received) -> list[Any]:
    """What is in the tasks of a message, parsed."""
    told = message.message if isinstance(message, Received) else message
    return [orjson.loads(bytes(item)) for item in told.tasks]


def _plain(item: Any) -> Any:
    return orjson.Fragment(item.to_json()) if isinstance(item, Task) else item


def a_beat(sender: Address, recipient: Address = DISTRIBUTOR, *, incarnation: int = 1, **fields: Any) -> Received:
    """A heartbeat, or with `action` an AGENT_JOINED. A `timestamp` belongs to the message, all else to the payload."""
    moment = fields.pop("timestamp", int(NOW.timestamp() * 1000))
    action = fields.pop("action", Action.BEAT)
    payload = orjson.loads(orjson.dumps({"beat": 1, "concurrency": 4, "capabilities": ["task:sum"], **fields}))
    message = a_message(sender, recipient, action, timestamp=moment, incarnation=incarnation, **payload)
    return Received(sender, message, b"", None, status_report(sender.role, action, message.payload))


def a_child(name: str, *, role: Role = Role.WORKER, mono_ms: int = 0, holds: int = 0, **fields: Any) -> Subordinate:
    """A child that lives and can do `sum`; `holds` tasks are in its hands already."""
    beat = Beat(**{"beat": 1, "concurrency": 4, "capabilities": ("task:sum",), **fields})
    child = Subordinate(Address(role, name), 1, beat, mono_ms)
    for number in range(holds):
        child.take(f"{name}-{number}")
    child.update(beat, mono_ms)
    return child


def a_batch(
    *messages: Received, beats: Sequence[Received] = (), events: Sequence[Any] = (), later_s: float = 0.0, **fields: Any
) -> Batch:
    """What an agent knows `later_s` seconds after NOW, on the server's clock and its own alike. With nothing in it, it
    is a heartbeat due."""
    return Batch(
        now=NOW + timedelta(seconds=later_s),
        mono_ms=round(later_s * 1000),
        messages=messages,
        beats=beats,
        events=events or (() if messages else (HeartbeatDue(),)),
        **fields,
    )


def taken(sender: Address, highest: int) -> dict[str, ReplayWindow]:
    """`windows` of a batch: everything up to `highest` was taken from `sender`."""
    return {str(sender): ReplayWindow(1, highest, (1 << highest) - 1, 0)}


def sent(step: Step, recipient: Address, action: Action) -> list[Any]:
    """The items that a step says to somebody, parsed, over all messages of that kind."""
    return [
        orjson.loads(bytes(item))
        for sending, items in step.sends.items()
        if sending[:2] == (recipient, action)
        for item in items
    ]


def record(step: Step, table: Table, key: str, whose: str = "") -> Any:
    """What a step writes there, parsed; None: it removes it. Raises KeyError when it does not touch it."""
    value = step.writes[table, whose][key]
    return orjson.loads(bytes(value)) if isinstance(value, bytes) else value
