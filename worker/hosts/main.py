"""What a host does: it runs many graphs at once on one event loop, until its worker is gone.

The loop outlives the runs, since clients that a graph keeps are bound to it. Each run has context variables of its own.
The state of the process (see worker.children.surroundings) is restored whenever nothing runs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec
import orjson
from msgspec import Raw

from core.agent_run import RunOptions
from core.budget import Grants
from core.checkpoints.storage import Fence
from core.json_values import TooLarge, result_json
from worker.authoring.context import Context, Progress, enter
from worker.authoring.graph_factory import Graphs
from worker.authoring.model_limit import fleet_gate
from worker.authoring.registry import Handler, Handlers
from worker.authoring.suspension import Suspension
from worker.children.descendants import end_children
from worker.children.frames import Frames
from worker.children.limits import DESCRIPTORS, Limits
from worker.children.outcome import out_of_memory
from worker.children.requests import context_of, options_of, progress_fields
from worker.children.surroundings import Surroundings
from worker.hosts.faults import judged, refused_budget, short_of
from worker.hosts.graph_events import callbacks_for, span_callbacks
from worker.hosts.host_loop import loop_of_host
from worker.hosts.messages import (
    Answer,
    Ask,
    Begin,
    Cancel,
    Chunks,
    Drain,
    Ended,
    FromHost,
    Printed,
    Progressed,
    Replace,
    Told,
    packed,
    to_host,
)
from worker.hosts.output import share_streams
from worker.hosts.own_server import find_gateway_at
from worker.hosts.run import GraphRun
from worker.hosts.run_config import run_config
from worker.hosts.run_gate import CallLedger, RunGate, limit_gate
from worker.hosts.storage_calls import Remote, RemoteItems, RemoteStorage
from worker.hosts.stores import Stores
from worker.hosts.threads import AttemptThreads, attempt_threads

if TYPE_CHECKING:
    from worker.hosts.run_storage import RunSaver

__all__ = ["serve"]

#: Number of threads beyond one for each run, for graphs whose blocking nodes run side by side.
THREADS_BESIDE = 32
STACK_MB = 8  #: what the system reserves for a thread

#: Seconds that the blocking calls of a run that has failed have to return, and what it has to store.
GRACE_S = 1.0

#: Bytes that wait for the worker above which what runs print is dropped, so that printing never blocks or takes memory.
CONGESTED_BYTES = 1 << 20
#: Bytes of chunks that go at once, so that no frame is too large.
TOLD_BYTES = 1 << 20
#: A longer line is passed on in pieces.
LINE_CHARACTERS = 8192

#: By how much lower the priority of a host is than that of its worker, which has messages of others to pass on as well.
NICENESS = 5

#: So many new objects let the garbage collector look for cycles. Python's 700 are fewer than one run has, so that it
#: would look through all runs under way again and again; LangGraph itself leaves no cycles behind.
OBJECTS_BETWEEN_LOOKS = 10_000


def serve(connection: socket.socket, handlers: Handlers, memory_mb: int, runs_at_once: int) -> NoReturn:
    """Runs the graphs that come. Never returns: it ends the process when the other end of `connection` is closed.

    `memory_mb`: what all runs together may allocate, unless the handler of the only one has a limit of its own.
    """
    os.nice(NICENESS)
    young, *older = gc.get_threshold()
    if 0 < young < OBJECTS_BETWEEN_LOOKS:  # 0: the user's modules have switched it off
        gc.set_threshold(OBJECTS_BETWEEN_LOOKS, *older)
    find_gateway_at(os.environ.get("AGENT_GATEWAY_URL", ""))
    loop = loop_of_host()
    host = Host(handlers, memory_mb, runs_at_once, loop)
    loop.run_until_complete(host.connect(connection))
    while True:
        with suppress(SystemExit, KeyboardInterrupt):  # of a node: whoever awaits its task gets it as well
            loop.run_forever()


class Run:
    """A run under way."""

    def __init__(self, number: int) -> None:
        from langgraph.runtime import RunControl

        self.number = number
        self.began_s = monotonic()
        self.control = RunControl()
        self.context: Context | None = None
        self.attempt: asyncio.Task[None] | None = None
        self.saver: RunSaver | None = None  #: None: it is not stored
        self.ledger: CallLedger | None = None  #: what its calls of models are counted by
        self.line = ""  #: what it has printed since the last end of a line


class Host(asyncio.Protocol):
    """The host's end of its socket, and the runs that it has."""

    def __init__(self, handlers: Handlers, memory_mb: int, runs_at_once: int, loop: asyncio.AbstractEventLoop) -> None:
        self._handlers = handlers
        self._loop = loop
        self._thread = threading.get_ident()
        self._threads_at_most = runs_at_once + THREADS_BESIDE
        self._frames = Frames()
        self._graphs = Graphs()
        self._stores = Stores(RemoteItems(self._ask, loop))
        self._runs: dict[int, Run] = {}
        self._by_context: dict[Context, Run] = {}
        self._lines = threading.Lock()
        self._variables = copy_context()  #: the context variables of which each run gets a copy
        share_streams(self._take_printed)
        self._surroundings = Surroundings()
        self._limits = Limits(
            memory_mb,
            stacks_mb=self._threads_at_most * STACK_MB,
            descriptors=max(DESCRIPTORS, DESCRIPTORS // 100 * runs_at_once),
        )
        self._calls = 0
        self._answers: dict[int, asyncio.Future[Answer]] = {}  #: by number of the call
        self._storage = RemoteStorage(self._ask, loop)
        self._counted = Remote(self._ask, loop)
        self._told: dict[int, list[bytes]] = {}  #: by run, chunks of this turn of the loop, which go in one write
        self._told_bytes = 0
        self._failed = False  #: whether a run has failed since nothing ran
        self._idle_since_s = monotonic()
        self._transport: asyncio.Transport
        self._threads: AttemptThreads

    async def connect(self, connection: socket.socket) -> None:
        """Begins to serve."""
        self._threads = attempt_threads(self._threads_at_most)
        await self._loop.create_connection(lambda: self, sock=connection)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        os._exit(0)  # the worker has retired this host, or died

    def data_received(self, data: bytes) -> None:
        for body in self._frames.feed(data):
            message = to_host.decode(body)
            if isinstance(message, Begin):
                self._begin(message)
            elif isinstance(message, Answer):
                if not (asked := self._answers.pop(message.call)).done():  # it may have been cancelled
                    asked.set_result(message)
            elif run := self._runs.get(message.run):
                self._stop(run, message)

    def _begin(self, message: Begin) -> None:
        if not self._runs:
            self._surroundings.__enter__()
            self._limits.allow_memory(None)
        run = self._runs[message.run] = Run(message.run)
        attempt = self._attempt(run, message.request)
        run.attempt = asyncio.Task(attempt, loop=self._loop, context=self._variables.copy())

    def _stop(self, run: Run, message: Cancel | Drain) -> None:
        if isinstance(message, Drain):
            run.control.request_drain()
            return
        if run.context is not None:
            run.context.cancel()
        if run.attempt is not None:
            self._loop.call_soon(run.attempt.cancel)  # after its first step: before that, it would end unheard

    async def _attempt(self, run: Run, request: bytes) -> None:
        try:
            ended = await self._outcome(run, orjson.loads(request))
        except BaseException as error:  # SystemExit and KeyboardInterrupt of user code fail the run as well
            ended = self._failure(run, error)
            if run.saver is not None:
                from worker.hosts.run_storage import store_last_soon

                await store_last_soon(run.saver)
        if run.saver is not None:
            ended.stored = run.saver.stored
            run.saver.lean_loop = None  # each refers to the other
        if run.context is not None:
            ended.stuck = await self._left_behind(run.context)
        self._end(run, ended)

    async def _outcome(self, run: Run, request: dict[str, Any]) -> Ended:
        context = run.context = context_of(request, partial(self._report, run), partial(self._tell, run))
        if not request["watched"]:
            context.on_event = None
        self._by_context[context] = run
        enter(context)
        handler = self._handlers.get(context.task_type)
        self._allow_memory(handler)
        options = options_of(request)
        saver = self._saver(run, request, options)
        if options.stream:
            _gather_tokens()
        try:
            config = run_config(handler, context, options)
            store = None if saver is None else self._stores.of(handler)
            async with self._graphs.built(handler, config, options.context, store) as graph:
                graph_run = GraphRun(
                    graph, request, options, config, context, run.control, saver, store, partial(self._stream, run),
                    self._callbacks(run, request),
                )  # fmt: skip
                outcome = await graph_run.outcome()
        finally:
            if run.ledger is not None:
                run.ledger.close()
            await context.close()
        if isinstance(outcome, Suspension):
            return Ended(run.number, suspension=_suspension_json(outcome))
        return await _completed(run, outcome, graph_run)

    def _saver(self, run: Run, request: dict[str, Any], options: RunOptions) -> RunSaver | None:
        """The checkpointer of a run; None: its worker stores none."""
        if (thread := request["thread"]) is None:
            return None
        from worker.hosts.run_storage import RunSaver

        with suppress(ImportError):  # in another version of LangGraph, whose loop is elsewhere
            from worker.hosts.lean_loop import use_lean_loops

            use_lean_loops()
        own_thread = thread["id"] == request["task"]["task_id"]
        fence = Fence(thread["order"], thread["attempt"])
        run.saver = RunSaver(self._storage, fence, options, own_thread=own_thread)
        return run.saver

    def _callbacks(self, run: Run, request: dict[str, Any]) -> list[Any]:
        """What LangChain tells and asks of the models that a run calls."""
        assert run.context is not None
        callbacks = callbacks_for(run.context) if run.context.on_event is not None else []
        callbacks += span_callbacks(run.context, run.number, self._send)
        if request["thread"] is None:
            return callbacks
        run.ledger = CallLedger(self._counted, self._loop, self._lent_thread)
        fleet_gate.set(partial(limit_gate, run.ledger, run.context))
        grants = msgspec.convert(request["grants"], Grants)
        if grants or request["limited"]:
            from worker.authoring.model_calls import ModelCallbacks

            gate = RunGate(run.ledger, run.context, grants)
            callbacks.insert(0, ModelCallbacks(lambda: gate))  # what it waits for is no time of the model
        return callbacks

    def _lent_thread(self) -> AbstractContextManager[None]:
        """One thread more, for a call that waits in one."""
        return self._threads.lent(lambda threads: self._limits.allow_stacks(threads * STACK_MB))

    def _ask(self, method: str, arguments: bytes) -> asyncio.Future[Answer]:
        self._calls += 1
        answer = self._answers[self._calls] = self._loop.create_future()
        self._send(Ask(self._calls, method, arguments))
        return answer

    def _failure(self, run: Run, error: BaseException) -> Ended:
        from langgraph.errors import GraphDrained

        if isinstance(error, GraphDrained):
            return Ended(run.number, drained=True)
        if issubclass(type(error), MemoryError):
            self._limits.lift()  # for all runs, since none can be told how it ends without memory
        problem = judged(error, run.context.attempt if run.context is not None else 0)
        if refused_budget(error):
            return Ended(run.number, error=problem)
        self._failed = True
        if lacking := short_of(error):
            return Ended(run.number, short_of=lacking, error=problem)
        if issubclass(type(error), MemoryError):
            self._limits.exhausted = True
            self._send(Replace("a run has reached the memory limit"))
            problem = out_of_memory(problem, self._limits.allowed_mb)
        return Ended(run.number, error=problem)

    def _allow_memory(self, handler: Handler) -> None:
        if handler.memory_mb is not None and len(self._runs) == 1:
            self._limits.allow_memory(handler.memory_mb)

    async def _left_behind(self, context: Context) -> str:
        """Waits for the blocking calls of a run that has ended. Returns what goes on nevertheless."""
        calls = self._threads.busy(context)
        if calls:
            context.cancel()
            with suppress(asyncio.CancelledError):  # it is told to stop while it stops already
                await asyncio.wait([asyncio.wrap_future(call) for call in calls], timeout=GRACE_S)
        left = self._threads.ended(context)
        return f"{left} of its nodes do not return" if left else ""

    def _end(self, run: Run, ended: Ended) -> None:
        del self._runs[run.number]
        if run.context is not None:
            self._by_context.pop(run.context, None)
            run.context.on_progress = run.context.on_event = None
        self._print(run, "", whole=True)
        idle = not self._runs
        try:
            if idle:
                self._limits.lift()
                self._surroundings.__exit__()
        finally:
            self._send(ended)
        if idle and (why := self._why_replace(run)):
            self._send(Replace(why))

    def _why_replace(self, run: Run) -> str:
        """Why this process should be replaced, now that nothing runs; empty if no reason is known."""
        left_processes = end_children()
        failed, self._failed = self._failed, False
        why = "it left processes behind" if left_processes else self._surroundings.spoilt
        return why or self._limits.why_replace(monotonic() - run.began_s, failed)

    def _report(self, run: Run, progress: Progress) -> None:
        self._send(Progressed(run.number, orjson.dumps(progress_fields(progress))))

    def _tell(self, run: Run, fields: dict[str, Any]) -> None:
        self._send(Told(run.number, orjson.dumps(fields)))

    def _stream(self, run: Run, chunk: bytes) -> None:
        if not self._told:
            self._loop.call_soon(self._send_told)
        self._told.setdefault(run.number, []).append(chunk)
        self._told_bytes += len(chunk)
        if self._told_bytes >= TOLD_BYTES:
            self._send_told()

    def _send_told(self) -> None:
        told, self._told, self._told_bytes = self._told, {}, 0
        if told:
            frames = [packed(Chunks(number, b",".join(chunks))) for number, chunks in told.items()]
            self._transport.write(b"".join(frames))

    def _take_printed(self, context: Context, text: str) -> bool:
        run = self._by_context.get(context)
        if run is not None:
            self._print(run, text)
        return run is not None

    def _print(self, run: Run, text: str, *, whole: bool = False) -> None:
        """Passes on the lines that `text` ends; if `whole`, also one that has no end yet."""
        with self._lines:
            lines = run.line + text
            end = len(lines) if whole or len(lines) > LINE_CHARACTERS else lines.rfind("\n") + 1
            lines, run.line = lines[:end], lines[end:]
        lines = lines[-CONGESTED_BYTES:]  # a frame that is too large would end this process
        if lines and self._transport.get_write_buffer_size() < CONGESTED_BYTES:
            self._send(Printed(run.number, lines.encode(errors="backslashreplace")))

    def _send(self, message: FromHost) -> None:
        """Sends a message; any thread may call this."""
        frame = packed(message)
        if threading.get_ident() == self._thread:
            self._send_told()
            self._transport.write(frame)
        else:
            self._loop.call_soon_threadsafe(self._transport.write, frame)


def _gather_tokens() -> None:
    with suppress(ImportError):  # in another version of LangGraph, whose queue is elsewhere: it takes longer
        from worker.hosts.gathering_queue import gather_what_is_told, use_gathering_queues

        use_gathering_queues()
        gather_what_is_told()


def _suspension_json(suspension: Suspension) -> bytes:
    children = tuple(Raw(child.to_json()) for child in suspension.children)
    return msgspec.json.encode((suspension.waits, children))


async def _completed(run: Run, state: Any, graph_run: GraphRun) -> Ended:
    """The end of a run with a result. A final state that is too large stays in its thread, and the result says so."""
    try:
        return Ended(run.number, result_json(state))
    except TooLarge as error:
        if run.saver is None:
            raise
        await run.saver.store_all()
        where = graph_run.thread_of_result()
        return Ended(run.number, orjson.dumps({**where, "left_in_thread": str(error)}), in_thread=True)
