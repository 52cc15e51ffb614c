"""Reads an agent stream without a group: a plain cursor that takes from nobody and is known to nobody."""

from __future__ import annotations

import asyncio
import logging
import re

from core.errors import BadEvent, ConfigError, PeerError, TransportDown
from core.event_types import EventType
from core.events.stream_connection import StreamConnection
from core.events.stream_entry import Entry, EntryFormat, ReceivedEvent
from core.redis_backend.clock import monotonic_s

__all__ = ["StreamCursor"]

log = logging.getLogger(__name__)

BATCH = 256
#: How long one wait lasts at most, and the pause between two attempts while Redis is away.
MAX_WAIT_S, PAUSE_S = 2.0, 0.2
POSITION = re.compile(r"\d{1,20}(-\d{1,20})?")


class StreamCursor:
    """Events after an id, in the order of the stream."""

    def __init__(
        self,
        connection: StreamConnection,
        stream: str,
        after: str,
        entries: EntryFormat,
        wanted: frozenset[EventType] | None,
    ) -> None:
        if not POSITION.fullmatch(after):
            raise ConfigError(f"after is {after[:40]!r}, and has to be the _msg_id of an event, '0' or '$'")
        self._connection = connection
        self._stream = stream
        self._after = after.encode()
        self._entries = entries
        self._wanted = wanted
        self._fetched: list[Entry] = []  # the next one is the last of them

    async def next(self, within_s: float | None) -> ReceivedEvent | None:
        """The next event; None: none came `within_s` (None: it waits for one). Outlasts an outage of Redis."""
        until_s = float("inf") if within_s is None else monotonic_s() + within_s
        while True:
            while self._fetched:
                if event := self._opened(self._fetched.pop()):
                    return event
            try:
                if not await self._fetch(until_s):
                    return None
            except TransportDown as error:
                if monotonic_s() >= until_s:
                    return None
                log.warning("waiting for Redis: %s", error, extra={"action": "stream_waits"})
                await asyncio.sleep(min(PAUSE_S, until_s - monotonic_s()))

    async def _fetch(self, until_s: float) -> bool:
        """Fetches what there is, or waits for it. False: there was nothing until `until_s`."""
        left_s = min(MAX_WAIT_S, until_s - monotonic_s())
        wait = ("BLOCK", int(left_s * 1000)) if left_s >= 0.001 else ()  # 0 would mean for ever
        [reply] = await self._connection.run(
            ("XREAD", "COUNT", BATCH, *wait, "STREAMS", self._stream, self._after),
        )
        self._fetched = [(msg_id, fields) for msg_id, fields in reply[0][1]][::-1] if reply else []
        return bool(reply) or bool(wait)

    def _opened(self, entry: Entry) -> ReceivedEvent | None:
        msg_id, fields = entry
        self._after = msg_id
        if fields is None:
            return None
        try:
            received = self._entries.event(msg_id.decode(), fields)
        except (PeerError, BadEvent) as error:
            log.warning("an entry of the agent stream is no event: %s", error, extra={"action": "event_refused"})
            return None
        is_wanted = self._wanted is None or received.event.type in self._wanted
        return received if is_wanted and received.only_for is None else None

    async def close(self) -> None:
        await self._connection.close()
