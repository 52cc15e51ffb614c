"""What one run stores of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.checkpoints.saver import CheckpointSaver
from core.checkpoints.storage import Fence, Selection, Storage, StoredCheckpoint, ThreadWrite, Written

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointTuple

__all__ = ["RunSaver", "RunStorage"]


class RunStorage:
    """A Storage that keeps back what a run writes until its first node has finished. If it dies before that, it begins
    with its input again, and nothing is lost. Of a run that writes only at its end (`durability="exit"`) nothing is
    kept back."""

    def __init__(self, storage: Storage, durability: str) -> None:
        self._storage = storage
        self._keeps_back = durability != "exit"
        self._held: list[ThreadWrite] = []
        self.stored = False  #: whether anything was stored

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        if self._keeps_back and not self.stored and not any(write.writes for write in batch):
            self._held += batch
            return [Written() for _ in batch]
        held, self._held, self.stored = self._held, [], True
        answers = await self._storage.write([*held, *batch])
        refused = next((answer for answer in answers[: len(held)] if answer.error), None)
        return [refused] * len(batch) if refused else answers[len(held) :]

    async def store_all(self) -> None:
        """Stores what was kept back."""
        held, self._held = self._held, []
        if held:
            self.stored = True
            await self._storage.write(held)

    async def open(self, thread_id: str, fence: Fence) -> StoredCheckpoint | None:
        return await self._storage.open(thread_id, fence)

    async def read(self, thread_id: str, selection: Selection) -> list[StoredCheckpoint]:
        await self.store_all()
        return await self._storage.read(thread_id, selection)

    async def delete(self, thread_id: str) -> None:
        await self._storage.delete(thread_id)

    async def prune(self, thread_id: str, keep: int) -> None:
        await self._storage.prune(thread_id, keep)

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str]) -> None:
        await self._storage.delete_runs(thread_id, run_ids)

    async def threads(self, cursor: str = "") -> tuple[str, list[str]]:
        return await self._storage.threads(cursor)


class RunSaver(CheckpointSaver):
    """The checkpointer of one run, which has read the newest checkpoint of its thread already."""

    def __init__(self, storage: Storage, fence: Fence) -> None:
        super().__init__(storage, fence=fence)
        self._known: dict[str, CheckpointTuple | None] = {}

    async def begin(self, thread_id: str, *, is_new: bool, undoes: Sequence[str]) -> CheckpointTuple | None:
        """Takes the thread, and gives its newest checkpoint, once those of the runs that it `undoes` are removed. A
        thread that `is_new` is known to have none."""
        found = None if is_new else await self.aopen(thread_id)
        if undoes:
            await self._storage.delete_runs(thread_id, undoes)
            found = await self.aopen(thread_id)
        self._known[thread_id] = found
        return found

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        place = config["configurable"]
        if not place.get("checkpoint_id") and not place.get("checkpoint_ns") and place["thread_id"] in self._known:
            return self._known.pop(place["thread_id"])  # LangGraph asks for it once, at the beginning
        return await super().aget_tuple(config)
