"""An event that no handler could do: kept with the reason until it is published again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from core.agent_event import AgentEvent
from core.errors import BadEvent, PeerError
from core.events.stream_entry import EntryFormat
from core.stored import number_in, pairs

__all__ = ["DeadLetter"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter of one audience."""

    letter_id: str
    group: str  #: the consumer group that could not handle it
    msg_id: str  #: which entry of the stream it was
    reason: str
    attempts: int  #: how often it was tried; 0: it was no event, and nobody has seen it
    event: AgentEvent | None  #: None: it was no event
    fields: tuple[bytes, ...]  #: of the entry, names and values alternately

    @classmethod
    def of(cls, group: str, letter_id: bytes, fields: Sequence[bytes], entries: EntryFormat) -> Self:
        named = pairs(fields)
        try:
            event = entries.event("", fields).event
        except (PeerError, BadEvent):
            event = None
        told = {b"id", b"reason", b"attempts", b"for"}
        kept = [part for name, value in named.items() if name not in told for part in (name, value)]
        return cls(
            letter_id=letter_id.decode(),
            group=group,
            msg_id=named.get(b"id", b"").decode(errors="replace"),
            reason=named.get(b"reason", b"").decode(errors="replace"),
            attempts=number_in(named.get(b"attempts")),
            event=event,
            fields=tuple(kept),
        )
