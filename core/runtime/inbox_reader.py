"""Reads an agent's inbox ahead: the next entries arrive while a turn is under way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from core.backoff import Backoff
from core.errors import ServerRefused, TransportDown
from core.runtime.inbox import Entry, Inbox
from core.runtime.watchdog import Watchdog

__all__ = ["InboxReader"]


class InboxReader:
    """Holds the entries that were read and not taken yet, and reads no further until they are taken."""

    def __init__(self, inbox: Inbox, watchdog: Watchdog, backoff: Backoff, on_read: Callable[[], None]) -> None:
        """`on_read` is called when there is something to do: there are entries to take, or the inbox is full."""
        self._inbox = inbox
        self._watchdog = watchdog
        self._backoff = backoff
        self._on_read = on_read
        self._room = asyncio.Event()
        self._room.set()
        self.entries: list[Entry] = []  #: read, and not taken yet

    def take(self) -> list[Entry]:
        """Returns the entries, and makes room for the next read."""
        entries, self.entries = self.entries, []
        self._room.set()
        return entries

    async def run(self) -> None:
        """Reads until it is cancelled, through transient errors. Raises StateConflict when the inbox is not a
        stream."""
        while True:
            await self._room.wait()
            self._watchdog.listens(reading=True)
            try:
                entries = await self._inbox.read()
            except (TransportDown, ServerRefused) as error:
                if isinstance(error, ServerRefused):
                    self._watchdog.reads(False)
                self._watchdog.note_failure(error)
                await asyncio.sleep(self._backoff.next(random.random()))
                continue
            self._watchdog.reads(True)
            self._backoff.reset()
            self._watchdog.listens(reading=False)
            if entries or self._inbox.full:
                self._room.clear()
                self.entries = entries
                self._on_read()
