"""What a client sees of LangGraph's threads, and does with them."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from core.access import may_use_thread, owner_of
from core.agent_run import RunOptions, StateUpdate
from core.client.run_streams import RunStreams
from core.errors import BadTask, TaskTimeout
from core.roles import Address
from core.runtime.portal import Resident, operation
from core.tasks import Task

if TYPE_CHECKING:
    from core.checkpoints.threads import Threads, ThreadState
    from core.client.server import Server

__all__ = ["ClientThreads", "ThreadUser"]

#: Threads that are read at the same time.
AT_ONCE = 16
#: Seconds by which the answer may come after the time that an update has.
LATE_S = 10.0


class ThreadUser(RunStreams):
    """A part of AgentClient: it uses threads."""

    _me: Address
    submit: Any  #: see AgentClient
    value: Any  #: see AgentClient

    @abstractmethod
    async def _reached(self) -> Server: ...

    @property
    def threads(self) -> ClientThreads:
        """The threads that this client may see: its own, those that are shared with it, and those that are nobody's; an
        operator sees all."""
        return ClientThreads(self)


class ClientThreads(Resident):
    """The threads of a client: `client.threads.state("t1")`, or `await client.threads.state.aio("t1")`.

    All calls raise BadTask when there is no such thread, or it is another client's; TransportDown, ServerRefused and
    CheckpointUnreadable."""

    def __init__(self, client: ThreadUser) -> None:
        self._client = client

    @operation
    async def list(self) -> list[str]:
        """The ids of the threads, sorted. It takes time in proportion to the keys of the server, and reads the newest
        state of each thread."""
        async with self._opened() as threads:
            turns = asyncio.Semaphore(AT_ONCE)

            async def is_seen(thread_id: str) -> bool:
                async with turns:
                    newest = await threads.history(thread_id, 1)  # it may be deleted meanwhile
                    return bool(newest) and self._may_use(newest[0])

            ids = await threads.ids()
            seen = await asyncio.gather(*map(is_seen, ids))
            return [thread_id for thread_id, is_ours in zip(ids, seen, strict=True) if is_ours]

    @operation
    async def state(self, thread_id: str, checkpoint_id: str | None = None) -> ThreadState:
        """The newest state of a thread, or that at a checkpoint."""
        async with self._opened() as threads:
            newest = await self._found(threads, thread_id)
            return await threads.state(thread_id, checkpoint_id) if checkpoint_id else newest

    @operation
    async def history(self, thread_id: str, limit: int = 20) -> Sequence[ThreadState]:
        """The states of a thread, the newest first."""
        async with self._opened() as threads:
            await self._found(threads, thread_id)
            return await threads.history(thread_id, limit)

    @operation
    async def update_state(
        self, thread_id: str, values: Any, as_node: str | None = None, checkpoint_id: str | None = None,
        graph: str | None = None, timeout_s: float = 60.0, gives_up_questions: bool = False, tenant: str | None = None,
        checkpoint_ns: str = "",
    ) -> str:  # fmt: skip
        """Updates the newest state of a thread, or that at a checkpoint, as if the node `as_node` (None: the last one)
        had returned `values`. Returns the id of the new checkpoint, from which the next run goes on. `checkpoint_ns`:
        it is the state of a subgraph that is under way, by the namespace that LangGraph gives its checkpoints.

        A worker does it that has the graph (its task type; None: that of the thread's last run), since its reducers
        decide what an update means. The update stands in the line of the thread as a run, so it never overlaps one, and
        waits for one that waits for an answer; with `gives_up_questions`, it cancels that one. Once it is accepted, it
        survives what tasks survive, and is made once. It is a task of the `tenant`, whose quota counts it.

        Raises TaskTimeout: it could not begin, or has not ended, within `timeout_s`; it is not begun later. BadTask:
        also when the values are no JSON. TaskFailed: the graph does not take them. Else as `submit`."""
        update = StateUpdate(as_node=as_node, checkpoint_id=checkpoint_id, checkpoint_ns=checkpoint_ns)
        return await self._updated(thread_id, values, update, graph, timeout_s, gives_up_questions, tenant)

    @operation
    async def bulk_update_state(
        self, thread_id: str, supersteps: Sequence[Sequence[Mapping[str, Any]]], graph: str | None = None,
        timeout_s: float = 60.0, tenant: str | None = None,
    ) -> str:  # fmt: skip
        """Updates the newest state of a thread in several steps, as LangGraph's `bulk_update_state`: each is a list of
        updates, `{"values": ..., "as_node": ...}`. All are made, or none. Returns and raises as `update_state`."""
        return await self._updated(thread_id, supersteps, StateUpdate(is_bulk=True), graph, timeout_s, False, tenant)

    async def _updated(
        self, thread_id: str, values: Any, update: StateUpdate, graph: str | None, timeout_s: float, gives_up: bool,
        tenant: str | None,
    ) -> str:  # fmt: skip
        """The id of the new checkpoint; empty: there is none."""
        if graph is None:
            async with self._opened() as threads:
                graph = (await self._found(threads, thread_id)).graph
            if not graph:
                raise BadTask(f"thread {thread_id!r} was not made by a graph that runs here: name its graph")
        deadline = datetime.now(UTC) + timedelta(seconds=timeout_s)
        multitask: Literal["enqueue", "reject"] = "reject" if update.deletes else "enqueue"
        run = RunOptions(thread_id=thread_id, update=update, multitask=multitask, gives_up_questions=gives_up)
        task = Task(task_type=graph, payload=values, run=run, deadline=deadline, tenant=tenant)
        task_id = await self._client.submit.aio(task)
        ended: Task = await self._client.result.aio(task_id, timeout_s + LATE_S)
        if ended.error is not None and ended.error.type == "deadline":
            raise TaskTimeout(f"thread {thread_id!r} is busy, or no worker has {graph!r}: nothing was changed")
        if ended.status != "completed":
            await self._client.value.aio(task_id)
        stored: str = ended.result.get("checkpoint_id", "")
        return stored

    @operation
    async def copy(self, thread_id: str, new_id: str) -> None:
        """Makes another thread that goes on where this one is. Raises BadTask also if there is one of the new id."""
        await self._copied(thread_id, new_id, None)

    @operation
    async def fork(self, thread_id: str, checkpoint_id: str, new_id: str) -> None:
        """Makes another thread that goes on from a checkpoint of this one. Raises as `copy`."""
        await self._copied(thread_id, new_id, checkpoint_id)

    @operation
    async def delete(
        self, thread_id: str, graph: str | None = None, timeout_s: float = 60.0, tenant: str | None = None
    ) -> None:
        """Deletes all that is stored of a thread; nothing happens if there is none. Do so when no run has it.

        With the name of a `graph` that a worker has, the worker does it, in the line of the thread: no run comes
        between. One that waits for an answer is cancelled; TaskRefused says that one goes on. Raises TaskTimeout: it
        could not begin within `timeout_s`. `tenant`: see `update_state`."""
        if graph is not None:
            await self._updated(thread_id, None, StateUpdate(deletes=True), graph, timeout_s, True, tenant)
            return
        async with self._opened() as threads:
            if await threads.history(thread_id, 1):
                await self._found(threads, thread_id)
                await threads.delete(thread_id)

    async def _copied(self, thread_id: str, new_id: str, checkpoint_id: str | None) -> None:
        async with self._opened() as threads:
            await self._found(threads, thread_id)
            await threads.copy(thread_id, new_id, checkpoint_id)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Threads]:
        server = await self._client._reached()
        async with server.threads() as threads:
            yield threads

    async def _found(self, threads: Threads, thread_id: str) -> ThreadState:
        newest = await threads.state(thread_id)
        if not self._may_use(newest):
            raise BadTask(f"thread {thread_id!r} is another client's; choose another thread_id")
        return newest

    def _may_use(self, newest: ThreadState) -> bool:
        return may_use_thread(owner_of(self._client._me), newest.owner, newest.shared_with)
