"""What people see of LangGraph's threads, and do with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from core.checkpoints.encryption import Encryption
from core.checkpoints.redis_saver import RedisSaver
from core.checkpoints.saver import CheckpointSaver
from core.checkpoints.snapshots import Snapshot, snapshot_of
from core.config.settings import RedisConfig
from core.errors import BadTask

__all__ = ["ThreadState", "Threads", "threads_of"]


@dataclass(frozen=True, slots=True)
class ThreadState:
    """A thread at one checkpoint."""

    thread_id: str
    checkpoint_id: str
    parent_id: str | None
    created_at: str  #: ISO 8601
    step: int
    source: str  #: input, loop, update or fork
    run_id: str
    graph: str  #: the task type of the graph that has made it; empty: it did not run here
    owner: str  #: such as "client:NAME"; empty: nobody's yet
    shared_with: str  #: names of clients, separated by commas
    values: dict[str, Any]  #: of the state; objects of types that are not known here are their fields


@asynccontextmanager
async def threads_of(redis: RedisConfig, *, encryption: Encryption | None = None) -> AsyncIterator[Threads]:
    """The threads of one Redis, until the end of the block."""
    async with RedisSaver(redis, encryption=encryption) as saver:
        yield Threads(saver)


class Threads:
    """The threads of one store. Its calls raise TransportDown, ServerRefused and CheckpointUnreadable."""

    def __init__(self, saver: CheckpointSaver) -> None:
        """`saver`: of that store, and for nothing else."""
        self._saver = saver
        self._saver.serde = JsonPlusSerializer(allowed_msgpack_modules=None)  # makes no objects of other types

    async def ids(self) -> list[str]:
        """The ids of all threads, sorted. It takes time in proportion to the keys of the server."""
        return sorted([thread_id async for thread_id in self._saver.athreads()])

    async def state(self, thread_id: str, checkpoint_id: str | None = None) -> ThreadState:
        """The newest state of a thread, or that at a checkpoint. Raises BadTask if there is none."""
        found = await self._saver.aget_tuple(_config(thread_id, checkpoint_id))
        if found is None:
            at = f"at {checkpoint_id!r}" if checkpoint_id else "in this Redis"
            raise BadTask(f"there is no thread {thread_id!r} {at}: `agents threads list` and `history` show what is.")
        return _state(found)

    async def history(self, thread_id: str, limit: int = 20) -> list[ThreadState]:
        """The states of a thread, the newest first; of a thread that is not there, none."""
        listed = self._saver.alist(_config(thread_id), limit=limit)
        return [_state(each) async for each in listed]

    async def snapshot(self, thread_id: str, checkpoint_id: str | None = None, namespace: str = "") -> Snapshot | None:
        """What a thread says at a checkpoint, by default the newest of the namespace; None: there is none."""
        found = await self._saver.aget_tuple(_config(thread_id, checkpoint_id, namespace))
        return snapshot_of(found, is_newest=checkpoint_id is None) if found else None

    async def snapshots(
        self, thread_id: str, limit: int, *, namespace: str = "", checkpoint_id: str | None = None,
        before: str | None = None, metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[Snapshot]:  # fmt: skip
        """What a thread has said in a namespace, the newest first, at most `limit`: before a checkpoint, or only at
        one, where the metadata have these values."""
        listed = self._saver.alist(
            _config(thread_id, checkpoint_id, namespace), limit=limit, filter=dict(metadata or {}),
            before=_config(thread_id, before) if before else None,
        )  # fmt: skip
        return [snapshot_of(found, is_newest=False) async for found in listed]

    async def prune(self, thread_id: str) -> None:
        """Deletes all checkpoints of a thread but the newest, and what is needed to read that."""
        await self._saver.aprune([thread_id])

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str]) -> None:
        """Deletes what these runs have left in a thread."""
        await self._saver.adelete_runs(thread_id, run_ids)

    async def copy(self, thread_id: str, new_id: str, checkpoint_id: str | None = None) -> None:
        """Makes another thread that goes on where this one is, or from a checkpoint of it. Raises BadTask if there is
        no such state, or already a thread of the new id."""
        await self.state(thread_id, checkpoint_id)
        if await self._saver.aget_tuple(_config(new_id)):
            raise BadTask(f"there is already a thread {new_id!r}: give the copy another id, or delete that one first.")
        await self._saver.acopy_thread(thread_id, new_id, until=checkpoint_id)

    async def delete(self, thread_id: str) -> None:
        """Deletes all that is stored of a thread; nothing happens if there is none."""
        await self._saver.adelete_thread(thread_id)


def _config(thread_id: str, checkpoint_id: str | None = None, namespace: str = "") -> RunnableConfig:
    named = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, **named}}


def _state(found: CheckpointTuple) -> ThreadState:
    place, parent = found.config["configurable"], found.parent_config
    values: dict[str, Any] = found.checkpoint["channel_values"]
    ours: Mapping[str, Any] = found.metadata
    return ThreadState(
        thread_id=place["thread_id"],
        checkpoint_id=place["checkpoint_id"],
        parent_id=parent["configurable"]["checkpoint_id"] if parent else None,
        created_at=found.checkpoint["ts"],
        step=found.metadata.get("step", 0),
        source=found.metadata.get("source", ""),
        run_id=found.metadata.get("run_id", ""),
        graph=str(ours.get("graph_name", "")),
        owner=str(ours.get("owner", "")),
        shared_with=str(ours.get("shared_with", "")),
        values={name: value for name, value in values.items() if not name.startswith(("__", "branch:to:"))},
    )
