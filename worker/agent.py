"""The worker as an agent: it runs its graph on the loop, and its tasks in an executor."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import starmap
from typing import Any, assert_never

import orjson
from msgspec import Raw, to_builtins
from msgspec.structs import replace

from core.agent_event import AgentEvent
from core.config.model_prices import load_prices
from core.config.settings import A2AConfig, AgentConfig, RedisConfig
from core.config.sources import load
from core.errors import BadEvent, BadTask
from core.event_types import EventLevel, event_type
from core.ports import Connection
from core.recording.recorder import recorded
from core.redis_backend.keys import CoordinatorKeys
from core.reports import AttemptReport, item_of
from core.roles import Address, Role
from core.run_keys import AttemptKey
from core.runtime.agent import Agent
from core.runtime.agent_loop import AgentLoop
from core.runtime.behaviour import Figures
from core.runtime.portal import operation
from core.runtime.tracing import tell_spans
from core.sealing import bare
from core.spans import spans_of_attempt
from core.status_reports import Beat
from core.step import Batch, Event, Received, Step
from core.store_index import METADATA
from core.tasks import Task, to_begin_now
from worker.authoring.context import ChildOutcome, Context, Progress
from worker.authoring.example import first_example
from worker.authoring.handlers import HANDLERS, Handlers, task
from worker.execution.attempt import Finished
from worker.execution.equipment import Callbacks, Equipment, of_processes
from worker.execution.executor import Executor
from worker.graph import build
from worker.hosts.chunk_writer import ChunkWriter
from worker.hosts.memory import Memory
from worker.projects.code import load_code
from worker.rules import (
    ON_EVENT,
    CancelRun,
    Outcome,
    ProgressMade,
    ReturnTask,
    RunTask,
    Said,
    Withdraw,
    Withdrawn,
    WorkerEffect,
    WorkerState,
)

__all__ = ["WorkerAgent"]

log = logging.getLogger(__name__)


@task("agents.gather", retries=99)
async def gather(ctx: Context) -> list[Any]:
    """The continuation of a task that spawned without naming one. Its result is the list of the children's results. It
    is tried again only if its worker dies. It has the most attempts there can be, since all its work is done."""
    return ctx.results()


class WorkerBehaviour:
    """A worker's state, its graph, and the effects that it performs."""

    def __init__(
        self,
        chain: tuple[Address, ...],
        config: AgentConfig,
        handlers: Handlers,
        modules: Sequence[str],
        capabilities: Sequence[str],
        equipment: Equipment | None = None,
    ) -> None:
        """`equipment`: None: that of a worker which is a process, and whose child processes import `modules`."""
        self._equipment = equipment or of_processes(modules)
        self._chain = chain
        self._config = config
        self._handlers = handlers
        self._capabilities = tuple(capabilities)
        self._graph = build()
        self._loop: AgentLoop | None = None
        on_event = self._said_by_user_code if config.events is EventLevel.ALL else None
        callbacks = Callbacks(self._finished, self._progressed, self._fetch_inputs, self._server_time, on_event)
        self.executor = self._equipment.executor(handlers, config, callbacks)
        self._memory: Memory | None = None  #: where graphs remember; None: before the start
        self._chunks: ChunkWriter | None = None  #: writes what graphs stream; None: likewise
        self._prices = load_prices(config.model_prices)
        self._said: Said | None = None  # what no step was given yet
        self.state = WorkerState(chain[-1].agent_id, distributor=chain[1])
        self._example = first_example(handlers)

    async def start(self) -> None:
        """Begins to run attempts, as `Executor.start` does."""
        assert self._loop
        if self._memory is None:
            given = self._open_connection, self._chain, self._prices, self.executor.waits_for
            self._memory = self._equipment.memory(*given)
            key_of = CoordinatorKeys(self._chain[0].agent_id).run_stream
            self._chunks = ChunkWriter(self._open_connection, key_of, self._attempt_key, self._now_ms)
        await self.executor.start(self._memory, self._chunks)

    async def close(self) -> None:
        """Ends all attempts, as `Executor.close` does."""
        await self.executor.close()
        if self._memory is not None:
            await self._memory.close()
        if self._chunks is not None:
            await self._chunks.close()

    async def hand_back(self) -> None:
        """Stops the running attempts, and returns their tasks. The attempts do not count."""
        assert self._loop
        self._loop.local_events.tell(Withdrawn(tuple(self.state.local_tasks.values())))
        await self.executor.close()

    def _open_connection(self) -> Connection:
        assert self._loop
        return self._loop.setup.open_connection()

    def _attempt_key(self, task: Task) -> AttemptKey | None:
        """With what the chunks of an attempt are signed; None: it came without a key that this worker can read."""
        assert self._loop
        return next(starmap(AttemptKey, self._loop.setup.signing.unwrapped(task.run_key or "")), None)

    def decide(self, batch: Batch) -> Step:
        if self._said in batch.events:
            self._said = None
        return self._graph.run(self.state, batch, self._config.events)

    def beat(self) -> Beat:
        """The content of a heartbeat. The worker's skills are its capabilities, those of its handlers, and `task:TYPE`
        for each type that it has a handler for."""
        skills = {*self._capabilities, *(f"task:{name}" for name in self._handlers.names())}
        for handler in self._handlers:
            skills.update(handler.capabilities)
        return Beat(
            concurrency=self._config.concurrency,
            agent_concurrency=self.executor.agent_slots,
            agents=tuple(sorted(handler.task_type for handler in self._handlers if handler.hosted)),
            graphs=tuple(sorted(handler.task_type for handler in self._handlers if handler.is_graph)),
            capabilities=tuple(sorted(skills)),
            attempts={handler.task_type: handler.max_attempts for handler in self._handlers},
            draining=self.state.draining,
            holding=tuple((task.task_id, task.attempt) for task in self.state.local_tasks.values()),
            running=len(self.executor.running),
            queued=self.executor.queued,
            done=self.state.done,
            failed=self.state.failed,
            example=self._example,
        )

    def figures(self, now: datetime) -> Figures:
        executor = self.executor
        running, queued = len(executor.running), executor.queued
        return Figures({"done": self.state.done, "failed": self.state.failed}, {"running": running, "queued": queued})

    def looked_up(self, received: Sequence[Received], events: Sequence[Event], now: datetime) -> list[str]:
        return []

    def next_wake_ms(self) -> int | None:
        return None

    @property
    def first_waiting(self) -> str | None:
        return self.executor.oldest_queued

    @property
    def paused(self) -> bool:
        return False

    @property
    def drained(self) -> bool:
        return self.state.draining and not self.state.local_tasks

    async def load(self, loop: AgentLoop) -> None:
        """Begins with an empty state, since a worker stores nothing. Its distributor hands its tasks over again."""
        before, self._loop = self.state, loop
        self.executor.forget_all()
        loop.local_events.retract(ON_EVENT)  # the new state does not know the attempts of these events
        self.state = WorkerState(before.agent_id, distributor=before.distributor)
        self.state.draining = loop.draining  # it still drains after a failed step

    async def perform(self, effects: Sequence[WorkerEffect]) -> None:
        assert self._loop
        for effect in effects:
            match effect:
                case RunTask():
                    self.executor.submit(effect.task)
                case CancelRun():
                    self.executor.cancel(effect.task_id, effect.attempt)
                case ReturnTask():
                    if (task := self.executor.retrieve(effect.task_id, effect.attempt)) is not None:
                        self._loop.local_events.tell(Withdrawn((task,), asked=True))
                case Withdraw():
                    self._loop.local_events.tell(Withdrawn(tuple(self.executor.drain())))
                case _:
                    assert_never(effect)

    def _server_time(self) -> datetime:
        """The time by the server's clock, by which deadlines are meant, since this machine's clock may be wrong."""
        assert self._loop
        return self._loop.setup.clock.now()

    def _now_ms(self) -> int:
        assert self._loop
        return self._loop.setup.clock.now_ms()

    def _finished(self, finished: Finished) -> None:
        assert self._loop
        ended = self.state.local_tasks.get(finished.task_id)
        error = finished.error.type if finished.error else None
        if ended is not None and ended.attempt == finished.attempt:
            end = finished.started_at + timedelta(milliseconds=finished.run_ms)
            agent = self._handlers.hosts(ended.task_type)
            tell_spans(spans_of_attempt(ended, finished.status, finished.started_at, end, error or "", agent=agent))
        self._loop.setup.measures.attempted(ended.task_type if ended else "", finished.status, finished.run_ms, error)
        if finished.error is not None:
            # The log does not get the error's message, which may quote the payload.
            running = self.state.local_tasks.get(finished.task_id)
            log.warning(
                "an attempt failed; `agents tasks show %s` tells why",
                finished.task_id,
                extra={
                    "action": "attempt_failed",
                    "task_type": running.task_type if running else "",
                    "attempt": finished.attempt,
                    "error": finished.error.type,
                },
            )
        self._loop.local_events.tell(Outcome(self._report(finished)))

    def _report(self, finished: Finished) -> AttemptReport:
        max_attempts = None
        if finished.error is not None:
            running = self.state.local_tasks.get(finished.task_id)
            if running is not None and running.task_type in self._handlers.names():
                max_attempts = self._handlers.get(running.task_type).max_attempts
        opens, spawn = finished.suspension or finished.spawn, finished.spawn
        return AttemptReport(
            task_id=finished.task_id,
            attempt=finished.attempt,
            status=finished.status,
            run_ms=finished.run_ms,
            started_at=finished.started_at,
            result_json=finished.result_json,
            output=finished.output,
            error=finished.error,
            max_attempts=max_attempts,
            children=tuple(Raw(child.to_json()) for child in opens.children) if opens else None,
            then=spawn.then if spawn else None,
            waits=finished.suspension.waits if finished.suspension else (),
            thread_over=finished.thread_over,
        )

    def _progressed(self, progress: Progress) -> None:
        assert self._loop
        shown = {"fraction": progress.fraction, "note": progress.note, **progress.data}
        self._loop.local_events.tell(ProgressMade(progress.task_id, progress.attempt, shown))

    def _said_by_user_code(self, task: Task, fields: dict[str, Any]) -> None:
        """Has observers told of an event, whose fields may be anything that a child has sent."""
        assert self._loop
        try:
            event = AgentEvent(event_type(fields["type"]), node_id=fields["node_id"], data=fields["data"])
            event.check()
        except (BadEvent, AttributeError):
            log.warning("an event that is none was dropped", extra={"action": "event_dropped", "task_id": task.task_id})
            return
        if self._said is None:
            self._said = Said()
            self._loop.local_events.tell(self._said)
        row = {
            "type": event.type, "task_id": task.task_id, "root_id": task.root_id or task.task_id,
            "execution_id": f"{task.task_id}#{task.attempt}", "node_id": event.node_id, "data": event.data,
        }  # fmt: skip
        self._said.add(row, len(orjson.dumps(row)))

    async def _fetch_inputs(self, continuation: Task) -> list[ChildOutcome]:
        """The outcomes of the children of a continuation, from their records. Raises BadTask when a record is not the
        one that the coordinator has signed for."""
        assert self._loop
        ids = [child_id for child_id, _ in continuation.inputs]
        key = CoordinatorKeys(self._chain[0].agent_id).tasks
        [records] = await self._loop.committer.look_up(("HMGET", key, *ids))
        outcomes = []
        for (child_id, digest), record in zip(continuation.inputs, records, strict=True):
            record = bare(record or b"")  # the signed digest protects it; a worker cannot verify the seal
            if hashlib.sha256(record).hexdigest() != digest:
                raise BadTask(f"the record of child {child_id!r} is not the one that its coordinator signed for")
            child = Task.from_json(record)
            outcomes.append(ChildOutcome(child_id, child.task_type, child.status, child.result, child.error))
        return outcomes


class WorkerAgent(Agent):
    """A worker, the tier that runs user code, in this process. `initialize` starts it; see Agent for how it ends.

    It imports `modules` (names, files, and the langgraph.json of LangGraph projects), and runs the tasks for which
    `handlers` has a handler; by default those are all functions and graphs that @task and @agent have registered, and
    the graphs of the projects. Raises ConfigError when a module cannot be imported.
    """

    def __init__(
        self,
        agent_id: str,
        redis_config: RedisConfig | None = None,
        a2a_config: A2AConfig | None = None,
        distributor_id: str | None = None,
        coordinator_id: str | None = None,
        config: AgentConfig | None = None,
        modules: Sequence[str] = (),
        capabilities: Sequence[str] = (),
        handlers: Handlers = HANDLERS,
    ) -> None:
        for unused in load_code(modules):
            log.warning("not used here, of %s", unused, extra={"action": "project_keys_unused"})
        config = config or load().agent
        chain = (
            Address.of(Role.COORDINATOR, coordinator_id or load().coordinator_id),
            Address.of(Role.DISTRIBUTOR, distributor_id or load().distributor_id),
            Address.of(Role.WORKER, agent_id),
        )
        self._worker_behaviour = WorkerBehaviour(chain, config, handlers, modules, capabilities)
        self._handlers = handlers
        super().__init__(chain, recorded(self._worker_behaviour, config), redis_config, a2a_config, config)
        if indexes := [to_builtins(handler.embeds) for handler in handlers if handler.embeds]:
            self._profile = replace(self._profile, metadata={**self._profile.metadata, METADATA: indexes})

    async def _initialize(self) -> bool:
        """Returns when the worker can run functions and graphs too. Coroutines run as soon as it has joined, which is
        earlier."""
        await super()._initialize()
        try:
            await self._worker_behaviour.start()
        except BaseException:
            await self.drain(0)  # hands its tasks back, which costs them no attempt
            await self._close()  # in case it has ended by itself
            raise
        return True

    def holder_of_the_loop(self) -> str:
        return self._worker_behaviour.executor.holder_of_the_loop()

    @operation
    async def execute_task(self, task: Task) -> dict[str, Any]:
        """Runs a task here and now, past every queue. Returns its outcome: `task_id`, `status`, `run_ms` (ms), `result`
        or `error`, and `output` if it printed or logged something. Nothing is recorded, and nobody is told. A failure
        of the task is part of the outcome, and is not raised. This works without `initialize`.

        Raises BadTask: the task is malformed or too large."""
        task = to_begin_now(task)
        outcome: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        executor = Executor(
            self._handlers, concurrency=1, child_memory_mb=self.config.child_memory_mb,
            gateway_url=self.config.gateway_url,
            on_finished=outcome.set_result, on_progress=lambda progress: None,
        )  # fmt: skip
        await executor.start()
        try:
            executor.submit(task.evolve(attempt=task.attempt + 1))
            finished = await outcome
        finally:
            await executor.close()
        told: dict[str, Any] = orjson.loads(item_of(self._worker_behaviour._report(finished)))
        return told

    @operation
    async def send_heartbeat(self) -> bool:
        """Sends a heartbeat now, in addition to the regular ones. Returns True. Raises LeaseLost when the agent does
        not run (see CoordinatorAgent); TransportDown; ServerRefused."""
        await self.loop.heartbeat.send()
        return True

    async def _hand_back(self) -> None:
        await self._worker_behaviour.hand_back()

    def _step_down(self) -> None:
        self._worker_behaviour.executor.forget_all()

    async def _release(self) -> None:
        await self._worker_behaviour.close()
