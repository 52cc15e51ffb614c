"""A step in words: a line for each thing that it asks of the world, in the order in which it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from core.step import Call, Event, Sending, Step, Unsealed

__all__ = ["failure_line", "step_lines"]

#: Sets have no order, and dictionaries of an effect have none that means something.
_encode = msgspec.json.Encoder(enc_hook=str, order="sorted").encode


def step_lines(step: Step, events: Sequence[Event], wake_ms: int | None, *, drained: bool) -> list[str]:
    """All of a step, the answers of its calls, and when the agent wants to run again."""
    lines = [*_written(step), *_sent(step), *_done(step), *_answered(events), *_ahead(wake_ms, drained)]
    return [line.replace("\n", "\\n") for line in lines]


def failure_line(error: Exception) -> str:
    """Stands for a step that there is none of, since the graph has failed."""
    return f"failed {type(error).__name__}: {error}".replace("\n", "\\n")


def _written(step: Step) -> Iterator[str]:
    for (table, whose), values in step.writes.items():
        for key, value in values.items():
            kind = "show" if isinstance(value, Unsealed) else "write"
            yield " ".join([kind, table, *filter(None, [whose]), key, _value(value)])
    for rejected in step.rejected:
        yield f"reject {rejected.received.entry_id.decode()} {bytes(rejected.item).decode()}: {rejected.error}"


def _value(value: bytes | int | None) -> str:
    return value.decode() if isinstance(value, bytes) else f"= {value}"


def _sent(step: Step) -> Iterator[str]:
    for sending, items in step.sends.items():
        for item in items:
            yield f"send {_to(sending)} {item.decode()}"
    for sending, fields in step.extras.items():
        yield f"add {_to(sending)} {_json(fields)}"
    for address, size in step.told.items():
        yield f"told {address} {size}"


def _to(sending: Sending) -> str:
    meant = [str(part) for part in (sending.parent_request_id, sending.audience) if part is not None]
    return " ".join([str(sending.recipient), sending.action, *meant])


def _done(step: Step) -> Iterator[str]:
    for effect in step.effects:
        yield f"effect {type(effect).__name__} {_json(effect)}"
    for task_id, changes in step.changes.items():
        yield f"change {task_id} {' '.join(changes)}"
    for task_id, reason in step.refused.items():
        yield f"refuse {task_id} {reason}"
    for task_id, agent_id in step.placed.items():
        yield f"place {task_id} {agent_id}"
    for action, fields in step.notes:
        yield f"note {action} {_json(fields)}"
    for row in step.events:
        yield f"tell {_json(row)}"


def _answered(events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        if isinstance(event, Call):
            yield f"answer {type(event.request).__name__} {event.answer!r}"


def _ahead(wake_ms: int | None, drained: bool) -> Iterator[str]:
    if wake_ms is not None:
        yield f"wake {wake_ms}"
    if drained:
        yield "drained"


def _json(value: Any) -> str:
    return _encode(value).decode()
