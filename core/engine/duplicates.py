"""Messages that come a second time with the same id, for the same receiver."""

from __future__ import annotations

import asyncio
from typing import Any

from core.engine.agent_id import AgentId
from core.engine.cancellation import CancellationToken
from core.engine.channels import MessageChannel
from core.engine.envelopes import PublishMessageEnvelope, SendMessageEnvelope
from core.engine.exceptions import UndeliverableException
from core.engine.mailbox import Call
from core.engine.work import Work, refuse_ring

__all__ = ["Duplicates", "response_of"]

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
        first = self._requests.get(key)
        if first is not None and not _has_failed(first):
            return first
        self._requests[key] = call
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

    def forget(self, envelope: PublishMessageEnvelope) -> None:
        """It was not published after all."""
        self._published.pop((envelope.message_channel, envelope.message_id), None)


async def response_of(first: Call, waiter: Work | None, token: CancellationToken) -> Any:
    """For a request that repeats the first one. Raises what that raises, RequestRing, UndeliverableException if the
    first is given up, or CancelledError if the own `token` is cancelled."""
    assert isinstance(first.envelope, SendMessageEnvelope)
    refuse_ring(waiter, first)
    if waiter is not None:
        waiter.waits[first] = None
    given_up = token.link_future(asyncio.get_running_loop().create_future())
    try:
        await asyncio.wait([first.envelope.future, given_up], return_when=asyncio.FIRST_COMPLETED)
        if not first.envelope.future.done():
            raise asyncio.CancelledError
    finally:
        given_up.cancel()
        if waiter is not None:
            waiter.waits.pop(first, None)
    if first.envelope.future.cancelled():
        raise UndeliverableException("the request that this one repeats was given up. Send it again.")
    return first.envelope.future.result()


def _has_failed(call: Call) -> bool:
    assert isinstance(call.envelope, SendMessageEnvelope)
    future = call.envelope.future
    return future.done() and (future.cancelled() or future.exception() is not None)


def _limit(remembered: dict[Key, Any], keep: int) -> None:
    while len(remembered) > keep:
        del remembered[next(iter(remembered))]
