"""Handles a batch whose step failed: takes its messages one by one, and puts the poison message, which breaks the
graph, aside."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from core.errors import MalformedMessage, PeerError, RaceLost, TransportDown
from core.runtime.inbox import Entry, Inbox
from core.step import Received

__all__ = ["PoisonFilter"]

log = logging.getLogger(__name__)


class PoisonFilter:
    """Finds the poison in a batch. Each of the other messages is dealt with by a commit of its own."""

    def __init__(
        self,
        inbox: Inbox,
        *,
        reload: Callable[[], Awaitable[None]],
        handle: Callable[[Sequence[Received]], Awaitable[object]],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """`reload` reads the stored state again, `handle` is a turn with these messages alone, `settle` commits what
        the inbox has dealt with."""
        self._inbox = inbox
        self._reload = reload
        self._handle = handle
        self._settle = settle

    async def isolate(self, entries: Sequence[Entry], seen: Sequence[bytes], incarnation: int) -> None:
        """Deals with `entries`, which were verified before. `seen` are the stored replay windows, as in a reply to
        HGETALL. Raises RaceLost and TransportDown: the remaining entries are still in the inbox."""
        self._inbox.rewind(seen)
        for entry in entries:
            for received in self._inbox.verify([entry], incarnation):
                try:
                    await self._handle([received])
                except (RaceLost, TransportDown):
                    raise
                except Exception as error:
                    await self._put_aside(received, error)

    async def _put_aside(self, received: Received, error: Exception) -> None:
        log.error(
            "a message was quarantined",
            extra={"action": "message_put_aside", "entry": received.entry_id},
            exc_info=error,
        )
        bad = error if isinstance(error, PeerError) else MalformedMessage(f"{type(error).__name__}: {error}")
        self._inbox.reject(received, bad)
        await self._reload()
        await self._settle()
