"""What an AgentCoordinator has open: its connections, its readers, and the bound of its stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from core.config.settings import RedisConfig
from core.event_types import EventType
from core.events.group_reader import GroupReader
from core.events.stream_bound import StreamBound
from core.events.stream_connection import StreamConnection
from core.events.stream_cursor import StreamCursor
from core.events.stream_entry import EntryFormat
from core.redis_client import Wire

__all__ = ["StreamSession"]


class StreamSession:
    """From opening to closing."""

    def __init__(
        self, redis: RedisConfig, stream: str, entries: EntryFormat, max_length: int | None, drop_unread: bool
    ) -> None:
        self._redis = redis
        self._stream = stream
        self.entries = entries
        self.connection = self.new_connection()
        self.bound = StreamBound(self.connection, stream, max_length, drop_unread=drop_unread)
        self.readers: dict[str, GroupReader] = {}  #: by consumer group
        self._cursors: set[StreamCursor] = set()

    def new_connection(self) -> StreamConnection:
        """A further connection, not open yet."""
        return StreamConnection(Wire(self._redis))

    @asynccontextmanager
    async def cursor(self, after: str, wanted: frozenset[EventType] | None) -> AsyncIterator[StreamCursor]:
        """Reads after an id, over a connection of its own."""
        cursor = StreamCursor(self.new_connection(), self._stream, after, self.entries, wanted)
        self._cursors.add(cursor)
        try:
            yield cursor
        finally:
            self._cursors.discard(cursor)
            await cursor.close()

    async def close(self) -> None:
        for reader in self.readers.values():
            await reader.close()
        for cursor in self._cursors:
            await cursor.close()
        await self.connection.close()
