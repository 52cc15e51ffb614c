"""What is to be stored at the same time goes out together: the writes of a superstep and its checkpoint are one."""

from __future__ import annotations

import asyncio

from core import errors
from core.checkpoints.storage import CheckpointPut, Fence, Storage, ThreadWrite, WritesPut, Written
from core.errors import AgentSystemError

__all__ = ["Gathered", "Outbox", "error_of"]


class Gathered:
    """What is to be stored of one thread at once. Any number may wait for it, on one loop."""

    def __init__(self) -> None:
        self.puts: list[CheckpointPut | WritesPut] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._end: tuple[Exception | None] | None = None  #: the error or None; without the tuple, it is not over

    async def stored(self) -> None:
        """Returns when it is stored. Raises what the storage raises, and its answer if that is an error. Whoever is
        cancelled here keeps nothing from being stored, and nobody else from being told."""
        if self._end is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        elif self._end[0] is not None:
            raise self._end[0]

    def end(self, error: Exception | None = None) -> None:
        """Tells all."""
        self._end = (error,)
        for waiter in self._waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def write(self, thread_id: str, fence: Fence | None) -> ThreadWrite:
        return ThreadWrite(
            thread_id,
            fence,
            tuple([put for put in self.puts if isinstance(put, CheckpointPut)]),
            tuple([put for put in self.puts if isinstance(put, WritesPut)]),
        )


class Outbox:
    """Lives on one event loop. While one batch is on its way, the next one gathers."""

    def __init__(self, storage: Storage, fence: Fence | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._storage = storage
        self._fence = fence
        self._gathered: dict[str, Gathered] = {}  #: by thread
        self._sender: asyncio.Task[None] | None = None

    def add(self, thread_id: str, *puts: CheckpointPut | WritesPut) -> Gathered:
        """What is gathered with these. Only for the loop of this outbox."""
        gathered = self._gathered.get(thread_id)
        if gathered is None:
            gathered = self._gathered[thread_id] = Gathered()
        gathered.puts += puts
        if self._sender is None or self._sender.done():
            self._sender = self.loop.create_task(self._send())
        return gathered

    async def _send(self) -> None:
        while self._gathered:
            batch, self._gathered = self._gathered, {}
            try:
                answers = await self._storage.write([each.write(name, self._fence) for name, each in batch.items()])
            except Exception as error:  # whatever it is, whoever waits is told
                for each in batch.values():
                    each.end(error)
                continue
            for each, answer in zip(batch.values(), answers, strict=True):
                each.end(error_of(answer) if answer.error else None)


def error_of(answer: Written) -> AgentSystemError:
    """The error that the answer to a write names."""
    kind: type[AgentSystemError] = getattr(errors, answer.error)
    return kind(answer.message)
