"""What an engine tells of its messages: events of the catalogue, and what it keeps of those that reached nobody.

Neither events nor the log hold anything of what a message says; a dead letter holds the message itself."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.agent_event import AgentEvent
from core.engine.agent_id import AgentId
from core.engine.channels import MessageChannel
from core.engine.envelopes import Envelope, MessageKind, ResponseMessageEnvelope, SendMessageEnvelope, receiver_of
from core.errors import BusClosed
from core.event_types import EventType
from core.events.bus import EventBus
from core.tasks import utc_now

__all__ = ["DeadLetter", "Telling"]

log = logging.getLogger(__name__)

#: As long as a text in the envelope of an event may be.
MAX_TEXT = 256


@dataclass(frozen=True)
class DeadLetter:
    """A message that reached nobody, or whose handler has failed with nobody waiting for it."""

    message: Any
    message_id: str
    sender: AgentId | None
    receiver: AgentId | MessageChannel
    kind: MessageKind
    reason: str
    error: BaseException | None = None
    at: datetime = field(default_factory=utc_now)


class Telling:
    """Tells a bus, if there is one, and keeps the last dead letters."""

    def __init__(self, bus: EventBus | None, keep_dead_letters: int) -> None:
        self._bus = bus
        self.dead_letters: deque[DeadLetter] = deque(maxlen=keep_dead_letters)

    def sent(self, envelope: Envelope) -> None:
        if self._bus is not None:
            self._message(EventType.MESSAGE_SENT, envelope, receiver_of(envelope))

    def delivered(self, envelope: Envelope, agent_id: AgentId) -> None:
        if self._bus is not None:
            self._message(EventType.MESSAGE_DELIVERED, envelope, agent_id)

    def responded(self, response: ResponseMessageEnvelope) -> None:
        """The response was given to whoever waits for it."""
        if self._bus is not None:
            for what in (EventType.MESSAGE_SENT, EventType.MESSAGE_DELIVERED):
                self._tell(
                    what, response.message_id, response.sender, sender=str(response.sender),
                    receiver=_text(response.recipient), kind=MessageKind.RESPOND.value,
                    message_type=type(response.message).__name__,
                )  # fmt: skip

    def dropped(
        self,
        envelope: Envelope,
        reason: str,
        *,
        receiver: AgentId | None = None,
        error: BaseException | None = None,
    ) -> None:
        """The message reaches nobody, or not this receiver."""
        to = receiver or receiver_of(envelope)
        kind = kind_of(envelope)
        self.dead_letters.append(
            DeadLetter(envelope.message, envelope.message_id, envelope.sender, to, kind, reason, error)
        )
        if self._bus is not None:
            self._message(EventType.MESSAGE_DROPPED, envelope, to, reason=reason)

    def failed(self, envelope: Envelope, agent_id: AgentId, error: BaseException) -> None:
        """A handler has raised this."""
        self._tell(
            EventType.HANDLER_FAILED, envelope.message_id, agent_id, receiver=str(agent_id), error=type(error).__name__,
            sender=_text(envelope.sender), kind=kind_of(envelope).value, message_type=type(envelope.message).__name__,
        )  # fmt: skip

    def not_built(self, agent_id: AgentId, error: Exception) -> None:
        """A builder has raised this."""
        log.error(
            "%s could not be built", agent_id,
            exc_info=error, extra={"action": "agent_construction_failed", "agent": str(agent_id)},
        )  # fmt: skip
        self._tell(EventType.AGENT_CONSTRUCTION_FAILED, None, agent_id, agent=str(agent_id), error=type(error).__name__)

    def _message(self, what: EventType, envelope: Envelope, receiver: AgentId | MessageChannel, **more: str) -> None:
        self._tell(
            what, envelope.message_id, receiver, sender=_text(envelope.sender), receiver=str(receiver),
            kind=kind_of(envelope).value, message_type=type(envelope.message).__name__, **more,
        )  # fmt: skip

    def _tell(self, what: EventType, message_id: str | None, who: object, **data: str | None) -> None:
        if self._bus is None:
            return
        agent_id = _unicode(who) if isinstance(who, AgentId) else None
        told = {name: None if text is None else _unicode(text) for name, text in data.items()}
        event = AgentEvent(what, agent_id=agent_id, correlation_id=message_id and _unicode(message_id), data=dict(told))
        try:
            self._bus.publish_nowait(event)
        except BusClosed:
            self._bus = None  # whoever has closed it wants to hear no more


def kind_of(envelope: Envelope) -> MessageKind:
    return MessageKind.DIRECT if isinstance(envelope, SendMessageEnvelope) else MessageKind.PUBLISH


def _unicode(text: object) -> str:
    """As far as an event can hold it."""
    return str(text)[:MAX_TEXT].encode(errors="replace").decode()


def _text(who: AgentId | None) -> str | None:
    return None if who is None else str(who)
