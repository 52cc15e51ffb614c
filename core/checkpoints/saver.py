"""A checkpointer for LangGraph over any Storage."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
)

from core.checkpoints.blocking import Done, wait_for
from core.checkpoints.encoding import Encoding, config_of, reseal, thread_of
from core.checkpoints.encryption import Encryption, Plain, Sealing
from core.checkpoints.outbox import Outbox
from core.checkpoints.serializer import strict_serializer
from core.checkpoints.storage import Fence, Selection, Storage, StoredCheckpoint
from core.errors import BadTask

__all__ = ["CheckpointSaver", "with_signature"]

T = TypeVar("T")

#: Checkpoints that are read at once, with all their values.
PAGE = 20
_NOTHING: Any = object()


C = TypeVar("C", bound=Callable[..., Any])


def with_signature(function: C) -> C:
    """The function, which knows its signature: LangGraph asks for that of `aput_writes` at each run, and otherwise
    Python makes it anew, which takes longer than to encode a checkpoint."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class CheckpointSaver(BaseCheckpointSaver[str]):
    """LangGraph's interface, and the encoding of what it stores.

    Each method has an async form, `aput` for `put`; the sync form raises EventLoopError in a running event loop, which
    it would block. All raise TransportDown (Redis could not be reached; the outcome is unknown, and the call may be
    repeated) and ServerRefused. With a fence, what writes raises FencedOut when a later run has the thread."""

    def __init__(
        self,
        storage: Storage,
        *,
        fence: Fence | None = None,
        allowed_types: Iterable[type | tuple[str, str]] = (),
        encryption: Encryption | None = None,
    ) -> None:
        """`allowed_types`: classes, or pairs of module and name, of which objects may be made from what is stored,
        besides those of LangGraph and LangChain and plain data; a graph that is compiled while LANGGRAPH_STRICT_MSGPACK
        is true adds those of its state."""
        self.serde = strict_serializer(tuple(allowed_types))  # the base class would only ask whether it is a serializer
        self._storage = storage
        self._fence = fence
        self._sealing: Sealing = encryption or Plain()
        self._outbox: Outbox | None = None

    def setup(self) -> Done:
        """Does nothing: there are no tables to make. Here so that programs made for other checkpointers run, which call
        or await it."""
        return Done()

    # ---- reading ----

    async def aopen(self, thread_id: str) -> CheckpointTuple | None:
        """Takes the thread for the fence of this saver, and gives its newest checkpoint, if it has one. Raises
        FencedOut: a later run has it."""
        assert self._fence is not None, "only a saver with a fence can take a thread"
        stored = await self._storage.open(thread_id, self._fence)
        return self._encoding(thread_id).as_tuple(stored, thread_id) if stored else None

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint of the config, or the newest of its namespace; None: there is none. Raises
        CheckpointUnreadable."""
        place = config["configurable"]
        selection = Selection(ns=place.get("checkpoint_ns", ""), checkpoint_id=get_checkpoint_id(config) or None)
        found = await self._storage.read(thread_of(config), selection)
        return self._encoding(thread_of(config)).as_tuple(found[0], place["thread_id"]) if found else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of a thread (config None: of all threads), the newest first: those whose metadata equal `filter`,
        made before the one of `before`, at most `limit`."""
        before_id = get_checkpoint_id(before) if before else None
        async for thread_id, stored in self._listed(config, before_id or None):
            if limit is not None and limit <= 0:
                return
            encoding = self._encoding(str(thread_id))
            if filter and not _matches(encoding.metadata(stored), filter):
                continue
            yield encoding.as_tuple(stored, thread_id)
            limit = None if limit is None else limit - 1

    async def _listed(
        self, config: RunnableConfig | None, before: str | None
    ) -> AsyncIterator[tuple[object, StoredCheckpoint]]:
        if config is None:
            async for thread_id in self.athreads():
                async for stored in self._pages(thread_id, Selection(before=before, limit=PAGE)):
                    yield thread_id, stored
            return
        place = config["configurable"]
        selection = Selection(place.get("checkpoint_ns"), get_checkpoint_id(config) or None, before, limit=PAGE)
        async for stored in self._pages(thread_of(config), selection):
            yield place["thread_id"], stored

    async def _pages(self, thread_id: str, selection: Selection) -> AsyncIterator[StoredCheckpoint]:
        while page := await self._storage.read(thread_id, selection):
            for stored in page:
                yield stored
            if len(page) < selection.limit:
                return
            last = page[-1]
            selection = Selection(
                selection.ns, selection.checkpoint_id, last.checkpoint_id, last.ns, limit=selection.limit
            )

    async def athreads(self) -> AsyncIterator[str]:
        """The ids of all threads, in no order, each once. It takes time in proportion to the keys of the server."""
        seen, cursor = set[str](), ""
        while True:
            cursor, found = await self._storage.threads(cursor)
            for thread_id in found:
                if thread_id not in seen:
                    seen.add(thread_id)
                    yield thread_id
            if not cursor:
                return

    # ---- writing ----

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Stores a checkpoint, and returns the config that names it. Raises CheckpointTooLarge: nothing was stored."""
        thread_id = thread_of(config)
        put = self._encoding(thread_id).checkpoint(config, checkpoint, metadata, new_versions)
        await self._to_be_sent().add(thread_id, put).stored([put])
        return config_of(config["configurable"]["thread_id"], put.ns, put.checkpoint_id)

    @with_signature
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Stores what a task has written on top of a checkpoint. Raises CheckpointTooLarge: nothing was stored."""
        thread_id = thread_of(config)
        put = self._encoding(thread_id).writes(config, writes, task_id, task_path)
        await self._to_be_sent().add(thread_id, put).stored([put])

    async def adelete_thread(self, thread_id: str) -> None:
        """Deletes all that is stored of a thread."""
        await self._storage.delete(str(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes the checkpoints of these runs, in all threads."""
        async for thread_id in self.athreads():
            await self.adelete_runs(thread_id, run_ids)

    async def adelete_runs(self, thread_id: str, run_ids: Sequence[str]) -> None:
        """Deletes the checkpoints of these runs in a thread."""
        await self._storage.delete_runs(thread_id, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str, until: str | None = None) -> None:
        """Copies a thread into another one, besides what that has. `until`: the id of a checkpoint, which is the last
        one that is copied."""
        if source_thread_id == target_thread_id:
            raise BadTask(f"thread {source_thread_id!r} cannot be copied to itself: give the copy another id.")
        outbox = Outbox(self._storage, self._fence)  # of its own: it sends what is newer first, and may be repeated
        async for stored in self._pages(source_thread_id, Selection(limit=PAGE)):
            if until is not None and stored.checkpoint_id > until:
                continue
            put, writes = reseal(stored, self._sealing, source_thread_id, target_thread_id)
            await outbox.add(target_thread_id, put, *writes).stored([put, *writes])

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes all checkpoints of threads (`delete`), or all but the newest of each namespace and those that are
        needed to read it (`keep_latest`)."""
        if strategy not in ("keep_latest", "delete"):
            raise BadTask(f"there is no strategy {strategy!r}: it is 'keep_latest' or 'delete'.")
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread_id)
            else:
                await self._storage.prune(str(thread_id), 1)

    # ---- the same for code without an event loop ----

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._wait("aget_tuple", self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        listed = aiter(self.alist(config, filter=filter, before=before, limit=limit))
        while (found := self._wait("alist", _next(listed))) is not _NOTHING:
            yield found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._wait("aput", self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._wait("aput_writes", self.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._wait("adelete_thread", self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._wait("adelete_for_runs", self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._wait("acopy_thread", self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self._wait("aprune", self.aprune(thread_ids, strategy=strategy))

    def _wait(self, name: str, call: Coroutine[Any, Any, T]) -> T:
        return wait_for(call, f"await {name}() instead, or in a graph `ainvoke`, `astream` or `aget_state`.")

    # ---- what both stand on ----

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Greater than `current`, and another one in each branch of a history that forks."""
        number = int(str(current).partition(".")[0]) if current else 0
        return f"{number + 1:012}.{random.getrandbits(40):010x}"

    def _encoding(self, thread_id: str) -> Encoding:
        return Encoding(self.serde, self._sealing, thread_id)

    def _to_be_sent(self) -> Outbox:
        outbox = self._outbox
        if outbox is None or outbox.loop is not asyncio.get_running_loop():
            outbox = self._outbox = Outbox(self._storage, self._fence)
        return outbox


async def _next(listed: AsyncIterator[CheckpointTuple]) -> Any:
    return await anext(listed, _NOTHING)


def _matches(metadata: CheckpointMetadata, wanted: dict[str, Any]) -> bool:
    return all(metadata.get(key) == value for key, value in wanted.items())
