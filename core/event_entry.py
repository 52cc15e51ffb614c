"""An entry of a hierarchy's event stream: the events of one committed step, in few bytes, and how a reader expands it.

Agents tell much more often than anybody looks, so what costs something is done where the events are read. An entry
names its agent, and the fence and the version of the commit that it is a part of. There is at most one for each commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from core.agent_event import SCHEMA_VERSION, AgentEvent, check_version
from core.errors import BadEvent
from core.event_types import foreign_event_type
from core.stored import moment

__all__ = ["Entry", "EventRow", "body_of", "entry_in", "place_of", "row_of"]

#: What a step notes of an event: its type, its task's id, the root of that if it is another task, and the facts in the
#: order of `EventType.fields`. Or, of what user code tells, the fields of the envelope that are known.
EventRow: TypeAlias = tuple[Any, ...] | dict[str, Any]

#: The number of events in an entry that a reader can tell apart by their sequence.
MAX_IN_ENTRY = 1 << 20
NO_ENTRY = "it is no entry of an agent's events"


class Entry:
    """What is known of an entry before its events are made."""

    __slots__ = ("_fields", "agent_id", "entry_id", "place")

    def __init__(self, entry_id: str, fields: dict[str, Any]) -> None:
        """Raises BadEvent: no agent of ours has written this."""
        self.entry_id = entry_id
        self._fields = fields
        check_version(fields)
        agent_id, epoch, number = (fields.get(name) for name in ("agent", "epoch", "version"))
        if not (isinstance(agent_id, str) and isinstance(epoch, int) and isinstance(number, int)):
            raise BadEvent(NO_ENTRY)
        if not isinstance(fields.get("events"), list):
            raise BadEvent(NO_ENTRY)
        self.agent_id = agent_id
        self.place = epoch, number  #: of the commit, by fence and version: it grows with each of an agent

    def events(self, stream_id: str) -> list[AgentEvent]:
        """All of its events, in order. `stream_id` is the coordinator's id. Raises BadEvent."""
        at = moment(int(self.entry_id.partition("-")[0]))
        return [self._event(row, index, stream_id, at) for index, row in enumerate(self._fields["events"])]

    def _event(self, row: Any, index: int, stream_id: str, at: datetime) -> AgentEvent:
        return AgentEvent.from_dict(
            {
                "timestamp": at.isoformat(),
                **_expanded(row),
                "stream_id": stream_id,
                "id": f"{self.entry_id}-{index}",
                "sequence": self.place[1] * MAX_IN_ENTRY + index + 1,
                "agent_id": self.agent_id,
            }
        )


def row_of(kind: str, *facts: Any) -> EventRow:
    """The row of an event that is about no task."""
    return (kind, "", None, *facts)


def body_of(agent_id: str, epoch: int, version: int, rows: Sequence[EventRow]) -> bytes:
    """The entry as JSON."""
    return orjson.dumps(
        {"schema_version": SCHEMA_VERSION, "agent": agent_id, "epoch": epoch, "version": version, "events": rows}
    )


def entry_in(entry_id: bytes, body: bytes) -> Entry:
    """The entry that `body_of` gave this body of. Raises BadEvent: no agent of ours has written this."""
    try:
        fields = orjson.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise BadEvent(NO_ENTRY)
    return Entry(entry_id.decode(), fields)


def place_of(event_id: str) -> str:
    """The id of the stream's entry in which the event of that id is told; the id of an entry is its own place."""
    return "-".join(event_id.split("-")[:2])


def _expanded(row: Any) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    if not isinstance(row, list) or len(row) < 3 or not isinstance(row[0], str):
        raise BadEvent("it holds what is no event")
    kind, task_id, root_id, *facts = row
    names = foreign_event_type(kind).fields
    data = {name: fact for name, fact in zip(names, facts, strict=False) if fact is not None}
    return {"type": kind, "task_id": task_id or None, "root_id": root_id or task_id or None, "data": data}
