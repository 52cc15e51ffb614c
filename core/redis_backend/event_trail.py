"""What a hierarchy tells: the event stream that all of its agents write to, each in the transaction of its commits."""

from __future__ import annotations

from collections.abc import Sequence

from core.event_entry import EventRow, body_of
from core.event_types import EventLevel
from core.ports import Command
from core.sealing import Sealed, Seals

__all__ = ["BODY", "EventTrail"]

#: Bounds of the stream, in entries and in bytes. The second is kept by the mean size of the writer's latest entries.
MAX_ENTRIES, MAX_BYTES = 20_000, 64 * 1024 * 1024
#: Share of the latest entry in that mean.
LATEST_SHARE = 1 / 8
#: The field of an entry.
BODY = b"body"


class EventTrail:
    """Makes the entries of one agent, with what its level tells."""

    def __init__(self, key: str, agent_id: str, seals: Seals, level: EventLevel) -> None:
        self.key = key
        self._agent_id = agent_id
        self._seals = seals
        self._told = level.types
        self._mean_bytes = 0.0

    def tells(self, rows: Sequence[EventRow]) -> list[EventRow]:
        """Those of `rows` that are told at this level."""
        told = self._told
        return [row for row in rows if (row["type"] if isinstance(row, dict) else row[0]) in told]

    def entry(self, rows: Sequence[EventRow], version: int, epoch: int) -> Command:
        """Appends an entry with these events, which `tells` has given."""
        body = body_of(self._agent_id, epoch, version, rows)
        self._mean_bytes += (len(body) - self._mean_bytes) * LATEST_SHARE
        kept = min(MAX_ENTRIES, int(MAX_BYTES / self._mean_bytes))
        return (
            "XADD", self.key, "MAXLEN", "~", kept, "*",
            BODY, self._seals.seal(Sealed.EVENTS, self._agent_id, body),
        )  # fmt: skip
