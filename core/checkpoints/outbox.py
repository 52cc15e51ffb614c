"""What is to be stored at the same time goes out together: the writes of a superstep and its checkpoint are one.

Supersteps that travel together are stored or refused together. Where one of them is too large, or all of them are for
one call, each goes out alone, so that whatever fits is stored, but for what builds on a checkpoint that is not: it
could be read only with gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from core import errors
from core.checkpoints.storage import CheckpointPut, Fence, Storage, ThreadWrite, WritesPut, Written
from core.checkpoints.supersteps import Put, Step, by_step, step_of
from core.errors import AgentSystemError, CheckpointTooLarge

__all__ = ["Gathered", "Outbox", "error_of"]

#: Number of checkpoints that were refused which are remembered; the oldest are forgotten first.
MAX_REFUSED = 1_000
TOO_LARGE = CheckpointTooLarge.__name__


class Gathered:
    """What is to be stored of one thread at once. Any number may wait for it, on one loop."""

    def __init__(self) -> None:
        self.puts: list[Put] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._is_over = False
        self._error: Exception | None = None  #: none of it is known to be stored
        self._refused: dict[Step, Exception] = {}

    async def stored(self, puts: Sequence[Put]) -> None:
        """Returns when these are stored. Raises what the storage raises, and its answer to the superstep of one of them
        if that is an error. Whoever is cancelled here keeps nothing from being stored, and nobody else from being
        told."""
        if not self._is_over:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        if self._error is not None:
            raise self._error
        for put in puts if self._refused else ():
            if (error := self._refused.get(step_of(put))) is not None:
                raise error

    def refuse(self, step: Step, error: Exception) -> None:
        """Has those told of it, once this is over, who wait for a part of this superstep."""
        self._refused[step] = error

    def end(self, error: Exception | None = None) -> None:
        """Tells all, unless they have been told."""
        if self._is_over:
            return
        self._is_over, self._error = True, error
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class Outbox:
    """Lives on one event loop. While one batch is on its way, the next one gathers."""

    def __init__(self, storage: Storage, fence: Fence | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._storage = storage
        self._fence = fence
        self._gathered: dict[str, Gathered] = {}  #: by thread
        self._sender: asyncio.Task[None] | None = None
        self._refused: dict[tuple[str, Step], Written] = {}  #: by thread, namespace and id: checkpoints, and why

    def add(self, thread_id: str, *puts: Put) -> Gathered:
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
                await self._send_batch(batch)
            except Exception as error:  # whatever it is, whoever waits is told
                for each in batch.values():
                    each.end(error)

    async def _send_batch(self, batch: dict[str, Gathered]) -> None:
        gaps = {name: each for name, each in batch.items() if self._builds_on_refused(name, each.puts)}
        whole = {name: each for name, each in batch.items() if name not in gaps}
        answers = await self._answers([self._write(name, each.puts) for name, each in whole.items()])
        for (name, each), answer in zip(whole.items(), answers, strict=True):
            if answer.error == TOO_LARGE:
                gaps[name] = each
                continue
            self._remember(name, each.puts, answer)
            each.end(error_of(answer) if answer.error else None)
        for name, each in gaps.items():
            await self._send_steps(name, each)

    async def _send_steps(self, thread_id: str, gathered: Gathered) -> None:
        """Stores those supersteps that fit, and build on nothing that does not."""
        for step, puts in by_step(gathered.puts).items():
            answer = self._refused.get((thread_id, step))
            if answer is None:
                [answer] = await self._answers([self._write(thread_id, puts)])
            self._remember(thread_id, puts, answer)
            if answer.error:
                gathered.refuse(step, error_of(answer))
        gathered.end()

    async def _answers(self, writes: Sequence[ThreadWrite]) -> Sequence[Written]:
        """What became of each."""
        try:
            return await self._storage.write(writes) if writes else ()
        except CheckpointTooLarge as error:  # for one call, all together
            return [Written(TOO_LARGE, str(error))] * len(writes)

    def _write(self, thread_id: str, puts: Sequence[Put]) -> ThreadWrite:
        return ThreadWrite(
            thread_id,
            self._fence,
            tuple([put for put in puts if isinstance(put, CheckpointPut)]),
            tuple([put for put in puts if isinstance(put, WritesPut)]),
        )

    def _builds_on_refused(self, thread_id: str, puts: Sequence[Put]) -> bool:
        return bool(self._refused) and any((thread_id, step_of(put)) in self._refused for put in puts)

    def _remember(self, thread_id: str, puts: Sequence[Put], answer: Written) -> None:
        """Knows which checkpoints are not there."""
        for put in puts if answer.error or self._refused else ():
            if not isinstance(put, CheckpointPut):
                continue
            place = thread_id, (put.ns, put.checkpoint_id)
            self._refused.pop(place, None)
            if answer.error:
                self._refused[place] = answer
        while len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]


def error_of(answer: Written) -> AgentSystemError:
    """The error that the answer to a write names."""
    kind: type[AgentSystemError] = getattr(errors, answer.error)
    return kind(answer.message)
