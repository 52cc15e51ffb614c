"""What one run stores of itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from core.checkpoints.outbox import error_of
from core.checkpoints.saver import CheckpointSaver
from core.checkpoints.storage import Fence, Selection, Storage, StoredCheckpoint, ThreadWrite, Written
from worker.hosts.graph_shape import SENDS

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple

__all__ = ["RunSaver", "RunStorage"]

#: Where the node of LangGraph stands that hands the input on to the first nodes.
INPUT_PATH = "~__pregel_pull, __start__"


class RunStorage:
    """A Storage that keeps back what a run writes until its first node has finished. If it dies before that, it begins
    with its input again, and nothing is lost. In a thread of the run's own it keeps back the last checkpoint as well:
    with the run's result the thread is over. Of a run that writes only at its end (`durability="exit"`) nothing else is
    kept back."""

    def __init__(self, storage: Storage, durability: str, *, own_thread: bool) -> None:
        self._storage = storage
        self._own_thread = own_thread
        self._held: list[ThreadWrite] = []
        self._last = ""  #: the id of the checkpoint that nothing follows
        self.begun = durability == "exit"  #: whether a node has finished, so that there is something to keep
        self.stored = False  #: whether anything is stored in the thread, by this attempt or one before

    def ends_with(self, checkpoint_id: str) -> None:
        """Notes which checkpoint, yet to be written, is the last one."""
        self._last = checkpoint_id if self._own_thread else ""

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        if self._can_wait(batch):
            self._held += batch
            return [Written() for _ in batch]
        held, self._held, self.stored = self._held, [], True
        answers = await self._storage.write([*held, *batch])
        refused = next((answer for answer in answers[: len(held)] if answer.error), None)
        return [refused] * len(batch) if refused else answers[len(held) :]

    def _can_wait(self, batch: Sequence[ThreadWrite]) -> bool:
        return not self.begun or any(put.checkpoint_id == self._last for write in batch for put in write.checkpoints)

    async def store_last(self) -> None:
        """Stores the last checkpoint, so that its node does not run again in another attempt."""
        if self._last:
            await self.store_all()

    async def store_all(self) -> None:
        """Stores what was kept back. Raises what the storage answers: FencedOut, CheckpointTooLarge."""
        held, self._held = self._held, []
        if held:
            self.stored = True
            for answer in await self._storage.write(held):
                if answer.error:
                    raise error_of(answer)

    async def open(self, thread_id: str, fence: Fence) -> StoredCheckpoint | None:
        found = await self._storage.open(thread_id, fence)
        self.stored = self.stored or found is not None
        return found

    async def read(self, thread_id: str, selection: Selection) -> list[StoredCheckpoint]:
        await self.store_all()
        return await self._storage.read(thread_id, selection)

    async def delete(self, thread_id: str) -> None:
        await self._storage.delete(thread_id)

    async def prune(self, thread_id: str, keep: int) -> None:
        await self._storage.prune(thread_id, keep)

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str], fence: Fence | None = None) -> None:
        await self._storage.delete_runs(thread_id, run_ids, fence)

    async def threads(self, cursor: str = "") -> tuple[str, list[str]]:
        return await self._storage.threads(cursor)


class RunSaver(CheckpointSaver):
    """The checkpointer of one run, which has read the newest checkpoint of its thread already."""

    def __init__(self, storage: RunStorage, fence: Fence) -> None:
        super().__init__(storage, fence=fence)
        self._run = storage
        self._known: dict[str, CheckpointTuple | None] = {}
        self._triggers: frozenset[str] = frozenset()  #: the channels to which a write begins nodes; empty: not known
        self.is_over = False  #: whether the newest checkpoint is the run's last

    async def begin(self, thread_id: str, *, is_new: bool, undoes: Sequence[str]) -> CheckpointTuple | None:
        """Takes the thread, and gives its newest checkpoint, once those of the runs that it `undoes` are removed. A
        thread that `is_new` is known to have none."""
        found = None if is_new else await self.aopen(thread_id)
        if undoes:
            await self._storage.delete_runs(thread_id, undoes, self._fence)
            found = await self.aopen(thread_id)
        self._known[thread_id] = found
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
        return await super().aget_tuple(config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        if not config["configurable"].get("checkpoint_ns"):
            self.is_over = self._is_last(checkpoint)
            self._run.ends_with(checkpoint["id"] if self.is_over else "")
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._run.begun = self._run.begun or task_path != INPUT_PATH
        await super().aput_writes(config, writes, task_id, task_path)

    def _is_last(self, checkpoint: Checkpoint) -> bool:
        """Whether no node runs after a checkpoint of the outermost graph, since it has changed no channel that begins
        one. False also when nothing is known to have changed."""
        changed = checkpoint.get("updated_channels")
        return bool(changed and self._triggers) and self._triggers.isdisjoint(changed or ())
