"""What one run stores of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from core.agent_run import RunOptions
from core.checkpoints.encoding import config_of, thread_of
from core.checkpoints.outbox import Gathered, Outbox
from core.checkpoints.saver import CheckpointSaver, with_signature
from core.checkpoints.storage import Fence, Storage
from core.checkpoints.supersteps import Put
from core.errors import AgentSystemError
from worker.hosts.graph_shape import SENDS

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple

    from worker.hosts.lean_loop import LeanLoop

__all__ = ["RunSaver", "store_last_soon"]

#: Seconds that a run which has failed has to store what it must.
GRACE_S = 1.0
#: Makes what is stored of what LangGraph puts.
Encode: TypeAlias = Callable[[], Put]

#: Where the node of LangGraph stands that hands the input on to the first nodes.
INPUT_PATH = "~__pregel_pull, __start__"


class Batch:
    """What is to be stored of one thread at once."""

    def __init__(self) -> None:
        self._encoders: list[Encode] = []
        self.sent: Gathered | None = None  #: what it has become; None: it is not on its way yet
        self._puts: list[Put] = []
        self._error: Exception | None = None  #: why the first could not be encoded that is missing in `_puts`

    def add(self, encode: Encode) -> int:
        """Its number in this batch."""
        self._encoders.append(encode)
        return len(self._encoders) - 1

    def send(self, outbox: Outbox, thread_id: str) -> bool:
        """Whether there is something to store. What cannot be encoded is not, nor is what comes behind it."""
        for encode in self._encoders:
            try:
                self._puts.append(encode())
            except Exception as error:
                self._error = error
                break
        self._encoders.clear()
        if self._puts:
            self.sent = outbox.add(thread_id, *self._puts)
        else:
            self.sent = Gathered()
            self.sent.end()
        return bool(self._puts)

    async def stored(self, number: int | None) -> None:
        """Returns when this is stored, or all (None). Raises what the storage answers, and why something could not be
        encoded."""
        assert self.sent is not None
        await self.sent.stored(self._puts if number is None else self._puts[number : number + 1])
        if self._error is not None and (number is None or number >= len(self._puts)):
            raise self._error


async def store_last_soon(saver: RunSaver) -> None:
    """Stores what a run has kept back that has failed after its last node, if that is possible soon."""
    with suppress(AgentSystemError, asyncio.CancelledError, TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await saver.store_last()


class RunSaver(CheckpointSaver):
    """The checkpointer of one run, which has read the newest checkpoint of its thread already.

    It keeps back what a run writes until its first node has finished: if it dies before that, it begins with its input
    again, and nothing is lost. In a thread of the run's own it keeps back the last checkpoint as well, with what has
    led to it: with the run's result the thread is over. Of a run that writes only at its end (`durability="exit"`)
    nothing else is kept back. What is kept back to the end is never encoded."""

    def __init__(self, storage: Storage, fence: Fence, options: RunOptions, *, own_thread: bool) -> None:
        """To be made in the event loop of the run."""
        super().__init__(storage, fence=fence)
        self._own_thread = own_thread
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, CheckpointTuple | None] = {}
        self._triggers: frozenset[str] = frozenset()  #: the channels to which a write begins nodes; empty: not known
        #: Whether a node has finished, so that there is something to keep; none does in an update.
        self.has_begun = options.durability == "exit" or options.update is not None
        #: Whether the run may make no checkpoint before there is something to keep: see worker.hosts.lean_loop.
        shows_checkpoints = not {"checkpoints", "debug"}.isdisjoint(options.stream)
        self.may_be_lean = own_thread and not (self.has_begun or options.is_command or shows_checkpoints)
        self.lean_loop: LeanLoop | None = None  #: of the run, as long as it has put nothing
        self._keeps_end = False  #: whether the run's last checkpoint is kept back
        self._lock = Lock()  #: nodes may use the saver from loops of their own
        self._batches: dict[str, Batch] = {}  #: what is not on its way yet, by thread
        #: What each checkpoint says besides what LangGraph and the client do. In the config of the run, LangGraph would
        #: copy it for each node.
        self.metadata: dict[str, Any] = {}
        self.is_over = False  #: whether the newest checkpoint is the run's last
        self.stored = False  #: whether anything is stored in the thread, by this attempt or one before

    @property
    def _may_wait(self) -> bool:
        return self._keeps_end or not self.has_begun

    async def begin(self, thread_id: str, *, is_new: bool, undoes: Sequence[str]) -> CheckpointTuple | None:
        """Takes the thread, and gives its newest checkpoint, once those of the runs that it `undoes` are removed. A
        thread that `is_new` is known to have none."""
        found = None if is_new else await self.aopen(thread_id)
        if undoes:
            await self._storage.delete_runs(thread_id, undoes, self._fence)
            found = await self.aopen(thread_id)
        self._known[thread_id] = found
        self.may_be_lean = self.may_be_lean and found is None
        self.stored = self.stored or found is not None
        return found

    def recognise_the_end(self, triggers: Iterable[str]) -> None:
        """Knows the last checkpoint from now on. `triggers`: the channels of the graph to which a write begins
        nodes."""
        self._triggers = frozenset((*triggers, SENDS))
        self.is_over = any(found is not None and self._is_last(found.checkpoint) for found in self._known.values())

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        place = config["configurable"]
        if not place.get("checkpoint_id") and not place.get("checkpoint_ns") and place["thread_id"] in self._known:
            return self._known.pop(place["thread_id"])  # LangGraph asks for it once, at the beginning
        await self.store_all()
        return await super().aget_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        await self.store_all()
        async for found in super().alist(config, filter=filter, before=before, limit=limit):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        place, thread_id = config["configurable"], thread_of(config)
        ns = place.get("checkpoint_ns", "")
        if ns:
            await self._keep_lean()
        else:
            self.is_over = self._is_last(checkpoint)
            self._keeps_end = self.is_over and self._own_thread
        full = cast("CheckpointMetadata", {**metadata, **self.metadata})
        encode = self._encoding(thread_id).checkpoint
        await self._stored(*self._keep(thread_id, partial(encode, config, checkpoint, full, new_versions)))
        return config_of(place["thread_id"], ns, checkpoint["id"])

    @with_signature
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        if config["configurable"].get("checkpoint_ns"):
            await self._keep_lean()
        self.has_begun = self.has_begun or task_path != INPUT_PATH
        thread_id = thread_of(config)
        encode = self._encoding(thread_id).writes
        batch, number = self._keep(thread_id, partial(encode, config, writes, task_id, task_path))
        if self.has_begun:
            await asyncio.sleep(0)  # the checkpoint of the same superstep may follow at once, and go with it
            await self._stored(batch, number)

    def _keep(self, thread_id: str, encode: Encode) -> tuple[Batch, int]:
        """In what it is to be stored, and its number there."""
        if not self.has_begun:  # now, since the nodes that begin next may change the values
            put = encode()
            encode = lambda: put  # noqa: E731
        with self._lock:
            batch = self._batches.setdefault(thread_id, Batch())
            return batch, batch.add(encode)

    async def _stored(self, batch: Batch, number: int) -> None:
        """Returns when it is stored, unless it may wait. Raises what the storage answers."""
        if batch.sent is not None or not self._may_wait:
            await self._on_its_loop(self._sent(batch, number=number))

    async def store_all(self) -> None:
        """Stores what was kept back. Raises what the storage answers: FencedOut, CheckpointTooLarge."""
        await self._keep_lean()
        await self._on_its_loop(self._sent(*self._batches.values()))

    async def store_last(self) -> None:
        """Stores the last checkpoint, so that its node does not run again in another attempt."""
        if self._keeps_end or (self.lean_loop is not None and self.lean_loop.node_ended):
            await self.store_all()

    async def _keep_lean(self) -> None:
        """Has the run put what it has not put yet."""
        if self.lean_loop is not None:
            await self._on_its_loop(self.lean_loop.kept())

    async def _on_its_loop(self, call: Coroutine[Any, Any, None]) -> None:
        if asyncio.get_running_loop() is self._loop:
            await call
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    async def _sent(self, *batches: Batch, number: int | None = None) -> None:
        if any(batch.sent is None for batch in batches):
            self._send_all()
        for batch in batches:
            await batch.stored(number)

    def _send_all(self) -> None:
        with self._lock:
            batches, self._batches = self._batches, {}
        for thread_id, batch in batches.items():
            self.stored = batch.send(self._to_be_sent(), thread_id) or self.stored

    def _is_last(self, checkpoint: Checkpoint) -> bool:
        """Whether no node runs after a checkpoint of the outermost graph, since it has changed no channel that begins
        one. False also when nothing is known to have changed."""
        changed = checkpoint.get("updated_channels")
        return bool(changed and self._triggers) and self._triggers.isdisjoint(changed or ())
