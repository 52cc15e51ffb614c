"""What is to be stored at the same time goes out together: the writes of a superstep and its checkpoint are one."""

from __future__ import annotations

import asyncio

from core import errors
from core.checkpoints.storage import CheckpointPut, Fence, Storage, ThreadWrite, WritesPut, Written
from core.errors import AgentSystemError

__all__ = ["Outbox", "error_of"]


class Outbox:
    """Lives on one event loop. While one batch is on its way, the next one gathers."""

    def __init__(self, storage: Storage, fence: Fence | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._storage = storage
        self._fence = fence
        self._gathered: dict[str, _Gathered] = {}  #: by thread
        self._sender: asyncio.Task[None] | None = None

    async def put(self, thread_id: str, *puts: CheckpointPut | WritesPut) -> None:
        """Returns when it is stored. Raises what the storage raises, and its answer if that is an error."""
        await asyncio.shield(self.add(thread_id, *puts))

    def add(self, thread_id: str, *puts: CheckpointPut | WritesPut) -> asyncio.Future[None]:
        """As `put`: is done when it is stored. Only for the loop of this outbox; shield it from being cancelled."""
        gathered = self._gathered.get(thread_id)
        if gathered is None:
            gathered = self._gathered[thread_id] = _Gathered(self.loop.create_future())
        gathered.puts += puts
        if self._sender is None or self._sender.done():
            self._sender = self.loop.create_task(self._send())
        return gathered.stored

    async def _send(self) -> None:
        while self._gathered:
            batch, self._gathered = self._gathered, {}
            try:
                answers = await self._storage.write([each.write(name, self._fence) for name, each in batch.items()])
            except Exception as error:  # whatever it is, whoever waits is told
                for each in batch.values():
                    each.fail(error)
                continue
            for each, answer in zip(batch.values(), answers, strict=True):
                if answer.error:
                    each.fail(error_of(answer))
                else:
                    each.stored.set_result(None)


class _Gathered:
    """What is to be stored for one thread."""

    def __init__(self, stored: asyncio.Future[None]) -> None:
        self.puts: list[CheckpointPut | WritesPut] = []
        self.stored = stored

    def write(self, thread_id: str, fence: Fence | None) -> ThreadWrite:
        return ThreadWrite(
            thread_id,
            fence,
            tuple(put for put in self.puts if isinstance(put, CheckpointPut)),
            tuple(put for put in self.puts if isinstance(put, WritesPut)),
        )

    def fail(self, error: Exception) -> None:
        self.stored.set_exception(error)
        self.stored.exception()  # it is known, also when nobody waits any more


def error_of(answer: Written) -> AgentSystemError:
    """The error that the answer to a write names."""
    kind: type[AgentSystemError] = getattr(errors, answer.error)
    return kind(answer.message)
