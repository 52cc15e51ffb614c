"""Writes what runs stream to Redis, gathered for a moment, so that many chunks of many runs are one write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from core.checkpoints.connection import GroupedConnection
from core.errors import AgentSystemError
from core.ports import Connection
from core.run_keys import AttemptKey
from core.run_stream import MAX_BYTES, MAX_ENTRIES, entry_of
from core.tasks import Task

__all__ = ["ChunkWriter"]

#: Seconds between two writes, in which chunks of many runs gather; those of one run have done so in its host before.
#: What comes after a longer silence is written at once.
GATHER_S = 0.01
#: Bytes of one run that are written at once.
GATHERED_BYTES = 512 * 1024
#: Bytes that wait to be stored, of all runs together. What comes faster than Redis takes it is lost.
HELD_BYTES = 64 * 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Run:
    """An attempt that streams, and what it has written so far."""

    task_id: str
    attempt: int
    key: AttemptKey | None
    entries: int = field(default=0, init=False)
    written_bytes: int = field(default=0, init=False)

    def kept(self, chunks: list[bytes]) -> int:
        """How many entries are kept of its stream, now that these chunks come as another one."""
        self.entries += 1
        self.written_bytes += sum(map(len, chunks))
        return min(MAX_ENTRIES, max(1, MAX_BYTES * self.entries // self.written_bytes))


class ChunkWriter:
    """Lives on one event loop. A chunk that cannot be stored, or not as fast as it comes, is lost: nobody waits for
    Redis, and no graph that tells too much takes the memory of the worker, or of the server."""

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        key_of: Callable[[str], str],
        attempt_key: Callable[[Task], AttemptKey | None],
        now_ms: Callable[[], int],
    ) -> None:
        """`key_of`: the key of the stream of a task. `attempt_key`: with what the chunks of the attempt at a task are
        signed; None: it came without. `now_ms`: the server's clock."""
        self._connection = GroupedConnection(open_connection, ())
        self._key_of = key_of
        self._attempt_key = attempt_key
        self._now_ms = now_ms
        self._number = 0  #: of the last entry; the clock, so that it grows over restarts, or the next one
        self._gathered: dict[Run, list[bytes]] = {}
        self._sizes: dict[Run, int] = {}
        self._held_bytes = 0  #: gathered, or on its way
        self._loses = False  #: whether it has said that chunks come too fast
        self._writing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = 0.0  #: when the next write is due, by the clock of the loop

    def stream_of(self, task: Task) -> Callable[[bytes], None]:
        """What takes chunks of the attempt at a task, each as JSON, with commas between them."""
        return partial(self._add, Run(task.task_id, task.attempt, self._attempt_key(task)))

    def _add(self, run: Run, chunk: bytes) -> None:
        if self._held_bytes + len(chunk) > HELD_BYTES:
            self._lose(run)
            return
        self._held_bytes += len(chunk)
        self._gathered.setdefault(run, []).append(chunk)
        self._sizes[run] = self._sizes.get(run, 0) + len(chunk)
        if self._sizes[run] >= GATHERED_BYTES:
            self._write_soon()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._next_s, loop.time()), self._write_soon)

    def _lose(self, run: Run) -> None:
        if not self._loses:
            self._loses = True
            log.warning(
                "parts of the stream of %s and maybe others are lost: they come faster than Redis takes them",
                run.task_id,
                extra={"action": "chunks_lost"},
            )

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
        self._held_bytes -= sum(self._sizes.values())
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
            self._number = max(self._number + 1, self._now_ms())
            writing = loop.create_task(self._write(gathered, self._number))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def _write(self, gathered: dict[Run, list[bytes]], number: int) -> None:
        commands = [
            command
            for run, chunks in gathered.items()
            for command in entry_of(self._key_of(run.task_id), run.attempt, number, chunks, run.key, run.kept(chunks))
        ]
        try:
            await self._connection.run(*commands)
        except AgentSystemError as error:
            log.warning("parts of the streams of runs are lost: %s", error, extra={"action": "chunks_lost"})
        else:
            self._loses = False
        finally:
            self._held_bytes -= sum(len(chunk) for chunks in gathered.values() for chunk in chunks)
