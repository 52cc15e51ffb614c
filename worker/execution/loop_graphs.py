"""Runs graphs on the event loop of this process, as hosts do in theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Raw

from core.agent_run import RunOptions
from core.checkpoints.storage import Fence
from core.json_values import TooLarge, result_json
from core.tasks import Task, grants_of, tells
from worker.authoring.context import ChildOutcome, Context, enter
from worker.authoring.graph_factory import Graphs
from worker.authoring.model_limit import fleet_gate
from worker.authoring.registry import Handler
from worker.authoring.suspension import Suspension
from worker.children.requests import options_of
from worker.execution.attempt import Finished, Running, graph_request, run_request, thread_of
from worker.execution.outcomes import completed, failed, returned, suspended_by
from worker.hosts.chunk_writer import ChunkWriter
from worker.hosts.faults import judged
from worker.hosts.graph_events import callbacks_for, span_callbacks
from worker.hosts.memory import Memory
from worker.hosts.messages import Answer, Ask
from worker.hosts.run import GraphRun
from worker.hosts.run_config import run_config
from worker.hosts.run_gate import CallLedger, RunGate, limit_gate
from worker.hosts.storage_calls import Remote, RemoteItems, RemoteStorage, answer_to
from worker.hosts.stores import Stores
from worker.hosts.threads import attempt_threads

if TYPE_CHECKING:
    from langgraph.runtime import RunControl

    from core.checkpoints.item_store import ItemStore
    from worker.hosts.run_storage import RunSaver

__all__ = ["LoopGraphs"]


class LoopGraphs:
    """The graphs of one worker. Between `start` and `close` it lives on one loop."""

    def __init__(self) -> None:
        self._graphs = Graphs()
        self._controls: dict[Running, RunControl] = {}
        self._memory: Memory | None = None
        self._chunks: ChunkWriter | None = None
        self._stores: Stores | None = None  #: of all runs; None: there was none yet, or there is no memory

    def start(self, memory: Memory | None, chunks: ChunkWriter | None) -> None:
        """`memory`: where runs remember; None: nowhere. `chunks`: writes what they stream; None: nothing does."""
        self._memory, self._chunks = memory, chunks
        self._stores = None  # one of before belongs to another loop, perhaps

    def drain(self, running: Running) -> None:
        """Has an attempt stop between two nodes. Its outcome is that it was returned, unless it ends before that."""
        if control := self._controls.get(running):
            control.request_drain()

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """The outcome of an attempt. Raises BadTask."""
        from langgraph.errors import GraphDrained
        from langgraph.runtime import RunControl

        from worker.hosts.run_storage import store_last_soon

        control, request = RunControl(), await self._request(running, children)
        self._controls[running] = control
        run = LoopRun(self, running, handler, control, request)
        try:
            finished = await run.finished(running.begin(children))
        except GraphDrained:
            finished = returned(running)
        except BaseException as error:
            if run.saver is not None:
                await store_last_soon(run.saver)
            if isinstance(error, asyncio.CancelledError):
                raise
            finished = failed(running, judged(error, running.task.attempt))
        finally:
            del self._controls[running]
            if self._memory is not None:
                self._memory.accounts.run_is_over(running.task.task_id, running.task.attempt)
        if self._chunks is not None and tells(running.task):
            await self._chunks.flush()  # before the outcome is told, which is the end of the stream
        return finished

    async def _request(self, running: Running, children: Sequence[ChildOutcome]) -> dict[str, Any]:
        """What a host would be sent."""
        task, watched = running.task, running.on_event is not None
        request: dict[str, Any] = orjson.loads(orjson.dumps(run_request(task, children, watched=watched)))
        if self._memory is None:
            return {**request, "thread": None}
        stored = orjson.loads(orjson.dumps(graph_request(task, children, moved=False)))
        return {**request, **stored}

    async def asked(self, method: str, arguments: bytes) -> Answer:
        """The answer to a call of the memory."""
        assert self._memory
        return await answer_to(Ask(0, method, arguments), self._memory)

    def store(self, handler: Handler) -> ItemStore:
        """What nodes find as `runtime.store`."""
        if self._stores is None:
            self._stores = Stores(RemoteItems(self.asked, asyncio.get_running_loop()))
        return self._stores.of(handler)

    def built(self, *given: Any) -> Any:
        """As Graphs.built."""
        return self._graphs.built(*given)

    async def is_limited(self) -> bool:
        """Whether there are limits of models."""
        return self._memory is not None and await self._memory.limits.any_known()

    def stream_of(self, task: Task) -> Callable[[bytes], None] | None:
        """What takes what the run of a task streams; None: nothing does."""
        return self._chunks.stream_of(task) if self._chunks and tells(task) else None


class LoopRun:
    """One attempt at a graph."""

    def __init__(
        self, graphs: LoopGraphs, running: Running, handler: Handler, control: RunControl, request: dict[str, Any]
    ) -> None:
        self._graphs = graphs
        self._running = running
        self._handler = handler
        self._control = control
        self._request = request
        self._ledger: CallLedger | None = None  #: None: its calls of models pass no gate
        self.saver: RunSaver | None = None  #: None: it is not stored

    async def finished(self, context: Context) -> Finished:
        """How it has ended. Raises whatever the graph raises; GraphDrained."""
        enter(context)
        options = options_of(self._request)
        saver = self.saver = self._saver(options)
        store = None if saver is None else self._graphs.store(self._handler)
        try:
            config = run_config(self._handler, context, options)
            callbacks = await self._callbacks(context)
            async with self._graphs.built(self._handler, config, options.context, store) as graph:
                graph_run = GraphRun(
                    graph, self._request, options, config, context, self._control, saver, store,
                    self._graphs.stream_of(self._running.task), callbacks,
                )  # fmt: skip
                outcome = await graph_run.outcome()
        finally:
            if self._ledger is not None:
                self._ledger.close()
            await context.close()
        if isinstance(outcome, Suspension):
            return suspended_by(self._running, outcome)
        return await self._completed(outcome, graph_run)

    def _saver(self, options: RunOptions) -> RunSaver | None:
        """The checkpointer; None: nothing is stored."""
        if (thread := self._request["thread"]) is None:
            return None
        from worker.hosts.run_storage import RunSaver

        storage = RemoteStorage(self._graphs.asked, asyncio.get_running_loop())
        own_thread = thread["id"] == self._running.task.task_id
        return RunSaver(storage, Fence(thread["order"], thread["attempt"]), options, own_thread=own_thread)

    async def _callbacks(self, context: Context) -> list[Any]:
        """What LangChain tells and asks of the models that it calls."""
        callbacks = callbacks_for(context) if context.on_event is not None else []
        callbacks += span_callbacks(context, 0, self._running.tell_span)
        if self.saver is None:
            return callbacks
        loop = asyncio.get_running_loop()
        self._ledger = CallLedger(Remote(self._graphs.asked, loop), loop, attempt_threads(1).lent)
        fleet_gate.set(partial(limit_gate, self._ledger, context))
        grants = grants_of(self._running.task)
        if grants or await self._graphs.is_limited():
            from worker.authoring.model_calls import ModelCallbacks

            gate = RunGate(self._ledger, context, grants)
            callbacks.insert(0, ModelCallbacks(lambda: gate))
        return callbacks

    async def _completed(self, state: Any, graph_run: GraphRun) -> Finished:
        """The outcome of a run with a result. A final state that is too large stays in its thread, and the result says
        so."""
        running, saver = self._running, self.saver
        try:
            finished = completed(running, Raw(result_json(state)))
        except TooLarge as error:
            if saver is None:
                raise
            await saver.store_all()
            where = {**graph_run.thread_of_result(), "left_in_thread": str(error)}
            return completed(running, Raw(orjson.dumps(where)))
        task = running.task
        over = saver is not None and saver.stored and thread_of(task) == task.task_id
        return finished._replace(thread_over=over)
