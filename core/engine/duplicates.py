"""Messages that come a second time with the same id, for the same receiver."""

from __future__ import annotations

from asyncio import Future
from typing import Any

from core.engine.agent_id import AgentId
from core.engine.channels import MessageChannel
from core.engine.envelopes import PublishMessageEnvelope, SendMessageEnvelope
from core.engine.mailbox import Call

__all__ = ["Duplicates"]

Key = tuple[AgentId | MessageChannel, str]


class Duplicates:
    """Remembers the last messages. One that has failed or was cancelled is forgotten: it may be sent again."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._requests: dict[Key, Call] = {}
        self._published: dict[Key, None] = {}

    def first_request(self, call: Call) -> Call | None:
        """The request that this one repeats. None: it repeats none, and is remembered."""
        envelope = call.envelope
        assert isinstance(envelope, SendMessageEnvelope)
        key = (envelope.recipient, envelope.message_id)
        found = self._requests.setdefault(key, call)
        if found is not call:
            return found
        envelope.future.add_done_callback(lambda future: self._forget_failed(key, future))
        _limit(self._requests, self._keep)
        return None

    def was_published(self, envelope: PublishMessageEnvelope) -> bool:
        """Whether it was published before. From now on it was."""
        key = (envelope.message_channel, envelope.message_id)
        if key in self._published:
            return True
        self._published[key] = None
        _limit(self._published, self._keep)
        return False

    def _forget_failed(self, key: Key, future: Future[Any]) -> None:
        if future.cancelled() or future.exception() is not None:
            self._requests.pop(key, None)


def _limit(remembered: dict[Key, Any], keep: int) -> None:
    while len(remembered) > keep:
        del remembered[next(iter(remembered))]
