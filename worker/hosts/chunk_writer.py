"""Writes what runs stream to Redis, gathered for a moment, so that many chunks of many runs are one write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from core.checkpoints.connection import GroupedConnection
from core.errors import AgentSystemError
from core.ports import Connection
from core.run_stream import entry_of

__all__ = ["ChunkWriter"]

#: Seconds between two writes, in which chunks gather. What comes after a longer silence is written at once.
GATHER_S = 0.05
#: Bytes of one run that are written at once.
GATHERED_BYTES = 512 * 1024

log = logging.getLogger(__name__)


class ChunkWriter:
    """Lives on one event loop. A chunk that cannot be stored is lost: nobody waits for an outage of Redis."""

    def __init__(self, open_connection: Callable[[], Connection], key_of: Callable[[str], str]) -> None:
        """`key_of`: the key of the stream of a task."""
        self._connection = GroupedConnection(open_connection, ())
        self._key_of = key_of
        self._gathered: dict[tuple[str, int], list[bytes]] = {}  #: by task and attempt
        self._sizes: dict[tuple[str, int], int] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = 0.0  #: when the next write is due, by the clock of the loop

    def add(self, task_id: str, attempt: int, chunk: bytes) -> None:
        """Takes a chunk, as JSON, of an attempt."""
        run = task_id, attempt
        self._gathered.setdefault(run, []).append(chunk)
        self._sizes[run] = self._sizes.get(run, 0) + len(chunk)
        if self._sizes[run] >= GATHERED_BYTES:
            self._write_soon()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._next_s, loop.time()), self._write_soon)

    async def flush(self) -> None:
        """Returns when everything that was taken before is stored, or lost."""
        self._write_soon()
        if self._writing:
            await asyncio.wait(set(self._writing))

    async def close(self) -> None:
        """Drops what is not stored, and closes the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._gathered, self._sizes = {}, {}
        for writing in self._writing:
            writing.cancel()
        await self._connection.close.aio()

    def _write_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered, self._sizes = self._gathered, {}, {}
        if gathered:
            loop = asyncio.get_running_loop()
            self._next_s = loop.time() + GATHER_S
            writing = loop.create_task(self._write(gathered))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def _write(self, gathered: dict[tuple[str, int], list[bytes]]) -> None:
        commands = [
            command
            for (task_id, attempt), chunks in gathered.items()
            for command in entry_of(self._key_of(task_id), attempt, chunks)
        ]
        try:
            await self._connection.run(*commands)
        except AgentSystemError as error:
            log.warning("parts of the streams of runs are lost: %s", error, extra={"action": "chunks_lost"})
