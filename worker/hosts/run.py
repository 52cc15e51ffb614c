"""One run of a graph, from where it begins or goes on to its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from core.agent_run import RunOptions, StateUpdate
from core.errors import BadTask
from core.event_types import EventType
from worker.authoring.context import Context
from worker.authoring.suspension import Interrupted, suspension_of
from worker.hosts.graph_description import description_of
from worker.hosts.graph_events import STREAM_MODES, chunk_json, tell_chunk
from worker.hosts.graph_shape import TRIGGERS, shape_digest, unnamed_triggers
from worker.hosts.langchain_events import EVENTS, ROOT_MODE, with_events
from worker.hosts.lost_nodes import lost_nodes
from worker.hosts.run_config import breakpoints, command_of, runtime_context, state_updates, subgraph_at
from worker.hosts.thread_owner import thread_owner

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple
    from langgraph.store.base import BaseStore

    from worker.hosts.run_storage import RunSaver

__all__ = ["GraphRun"]

#: The key in LangGraph's output that says that a graph has paused.
INTERRUPT = "__interrupt__"

#: The key of the config by which LangGraph is given a checkpointer for one run.
CHECKPOINTER = "__pregel_checkpointer"
#: The key by which it is given a store for one run, in a Runtime.
RUNTIME = "__pregel_runtime"

#: How the ids of waits begin that stand for a stop before or after a node.
BREAKPOINT = "breakpoint:"


@dataclass(slots=True)
class GraphRun:
    """A run of `graph` as `request` says (see worker.execution.attempt.graph_request). `config`: of the run.
    `control`: LangGraph's RunControl, by which it is asked to stop between two nodes. `saver`: None: the run is not
    stored, and cannot pause. `store`: what nodes find as `runtime.store`, unless the graph was compiled with its own;
    None: they find none."""

    graph: Any
    request: Mapping[str, Any]
    options: RunOptions
    config: dict[str, Any]
    context: Context
    control: Any
    saver: RunSaver | None
    store: BaseStore | None
    stream: Callable[[bytes], None] | None  #: is given each chunk that the client wants, as JSON; None: nothing is
    callbacks: list[Any]  #: of LangChain
    _owner: dict[str, str] = field(default_factory=dict, init=False)  #: of its thread, once that is known

    async def outcome(self) -> Any:
        """The final state, or the Suspension that says what it waits for.

        Raises BadTask when the payload or the context is not what the graph takes, or the graph has paused and is not
        stored; GraphDrained; and whatever a node raises."""
        from langgraph.graph.state import CompiledStateGraph
        from langgraph.pregel import Pregel

        payload = self.request["task"]["payload"]
        if self.options.update is not None:
            return await self._updated(payload, self.options.update)
        if self.options.describes:
            return await description_of(self.graph)
        goes_on = payload is None and self.options.thread_id is not None  # where its thread is, as in LangGraph
        if isinstance(self.graph, CompiledStateGraph) and not isinstance(payload, dict) and not goes_on:
            raise BadTask(
                f"payload of {self.context.task_type!r} must be an object, the first state of its graph,"
                f" not {type(payload).__name__}"
            )
        if self.options.is_command:
            payload = command_of(payload)
        given, config = await self._input(payload), self._full_config()
        if isinstance(self.graph, Pregel):  # the result of ainvoke does not show a stop before or after a node
            state, paused = await self._streamed(given, config)
        else:  # the graph is wrapped in something else
            runtime = runtime_context(self.graph, self.context, self.options)
            state = await self.graph.ainvoke(given, config, context=runtime)
            paused = _has_paused(state)
        if paused and (interrupts := await self._interrupts(state, config)):
            return suspension_of(interrupts, self.context)
        return state

    async def _updated(self, values: Any, update: StateUpdate) -> dict[str, Any]:
        """Updates the state of the thread, or deletes it; gives the place of the new checkpoint. What an attempt before
        has stored is removed first, so that it is updated once. Raises BadTask: this cannot be done with the graph."""
        from langgraph.pregel import Pregel

        if self.saver is None or not isinstance(self.graph, Pregel):
            raise BadTask(f"the state of {self.context.task_type!r} cannot be updated: it is no graph that is stored")
        thread = self.request["thread"]
        undoes = [*thread["undoes"], *([self.context.task_id] if self.context.attempt > 1 else [])]
        found = await self.saver.begin(thread["id"], is_new=thread["is_new"], undoes=undoes)
        self._owner = thread_owner(thread, found.metadata if found else {})
        if update.deletes:
            await self.saver.adelete_thread(thread["id"])
            return {"thread_id": thread["id"]}
        config: Any = self._full_config()
        if update.checkpoint_id is not None:
            config["configurable"]["checkpoint_id"] = update.checkpoint_id
        config["configurable"]["checkpoint_ns"] = update.checkpoint_ns
        if (update.checkpoint_id or update.checkpoint_ns) and await self.saver.aget_tuple(config) is None:
            named = update.checkpoint_id or update.checkpoint_ns
            raise BadTask(f"thread {thread['id']!r} has no checkpoint {named!r}")
        graph = subgraph_at(self.graph, update.checkpoint_ns)
        if update.is_bulk:
            stored = await graph.abulk_update_state(config, state_updates(values))
        else:
            stored = await graph.aupdate_state(config, values, as_node=update.as_node)
        return {"thread_id": thread["id"], "checkpoint_id": stored["configurable"]["checkpoint_id"]}

    def thread_of_result(self) -> dict[str, Any]:
        """Where the final state is, for a result that is too large."""
        return {"thread_id": self.config["configurable"]["thread_id"]}

    async def _input(self, payload: Any) -> Any:
        """What the graph is given: the payload, or what the run goes on with that an attempt before has begun."""
        from langgraph.types import Command

        if self.saver is None:
            return payload
        thread = self.request["thread"]
        found = await self.saver.begin(thread["id"], is_new=thread["is_new"], undoes=thread["undoes"])
        self._owner = thread_owner(thread, found.metadata if found else {})
        if found is None or found.metadata.get("run_id") != self.context.task_id:
            await self._go_back()
            return payload
        if self._has_changed(found):
            if self.options.on_change == "restart":
                await self.saver.begin(thread["id"], is_new=False, undoes=[self.context.task_id])
                await self._go_back()
                return payload
            await self._check_goes_on(found)
        answers = {name: value for name, value in self.request["resume"].items() if not name.startswith(BREAKPOINT)}
        return Command(resume=answers) if answers else None

    async def _go_back(self) -> None:
        """Lets the run begin at the checkpoint that the client has named. Raises BadTask: there is none."""
        if (checkpoint_id := self.options.checkpoint_id) is None:
            return
        assert self.saver is not None
        place = {**self.config["configurable"], "checkpoint_id": checkpoint_id}
        if await self.saver.aget_tuple({"configurable": place}) is None:
            raise BadTask(f"thread {place['thread_id']!r} has no checkpoint {checkpoint_id!r}")
        self.config = {**self.config, "configurable": place}

    def _has_changed(self, found: CheckpointTuple) -> bool:
        """Whether the run has begun with another graph, and if so tells observers. Raises BadTask if it is to fail
        then."""
        metadata: Mapping[str, Any] = found.metadata
        before, after = metadata.get("graph_digest"), shape_digest(self.graph)
        if not before or before == after:
            return False
        if self.options.on_change == "fail":
            raise BadTask(
                f"the graph of {self.context.task_type!r} was changed since this run has begun, and it is to fail then"
                " (on_change='fail'): submit it again"
            )
        changed = {"graph": self.context.task_type, "on_change": self.options.on_change}
        self.context.emit(EventType.GRAPH_CHANGED, {**changed, "before": before, "after": after})
        return True

    async def _check_goes_on(self, found: CheckpointTuple) -> None:
        """Raises BadTask if the graph, or one below it, has no longer what would run next: LangGraph would end it as if
        it were complete."""
        if lost := await lost_nodes(self.graph, found, self._newest):
            raise BadTask(
                f"the graph of {self.context.task_type!r} was changed, and no longer has {', '.join(map(repr, lost))},"
                " with which this run would go on: give it back, or submit the task again, with on_change='restart'"
            )

    async def _newest(self, namespace: str) -> CheckpointTuple | None:
        """The newest checkpoint of a namespace of the thread."""
        assert self.saver is not None
        return await self.saver.aget_tuple(
            {"configurable": {"thread_id": self.request["thread"]["id"], "checkpoint_ns": namespace}}
        )

    def _full_config(self) -> dict[str, Any]:
        """The config, with what is ours."""
        config = dict(self.config)
        if self.callbacks:
            config["callbacks"] = self.callbacks
        if self.saver is not None:
            ours = {"run_id": self.context.task_id, "attempt": self.context.attempt}  # who writes a checkpoint
            graph: dict[str, Any] = {"graph_name": self.context.task_type, "graph_digest": shape_digest(self.graph)}
            if triggers := unnamed_triggers(self.graph):
                graph[TRIGGERS] = triggers
            self.saver.metadata = {**ours, **graph, **self._owner}
            config["configurable"] = {**config["configurable"], CHECKPOINTER: self.saver, **self._store_given()}
        return config

    def _store_given(self) -> dict[str, Any]:
        """What gives the graph the store, if it can be seen that it has none of its own."""
        from langgraph.runtime import Runtime

        own = getattr(self.graph, "store", self)
        return {RUNTIME: Runtime(store=self.store)} if own is None else {}

    async def _streamed(self, given: Any, config: Any) -> tuple[Any, bool]:
        """The final state, and whether the graph may have paused. Tells observers of what happens meanwhile."""
        state, paused = None, False
        began_s: dict[str, float] = {}
        observed, wanted = self.context.on_event is not None, frozenset(self.options.stream)
        if self.saver is not None:
            self.saver.recognise_the_end(self.graph.trigger_to_nodes)
        stream = partial(with_events, self.graph, wanted) if EVENTS in wanted else self.graph.astream
        async for told in stream(
            given, config, context=runtime_context(self.graph, self.context, self.options),
            stream_mode=self._modes(observed, wanted),
            output_keys=self.graph.output_channels, control=self.control,
            subgraphs=bool(wanted), durability=self.options.durability if self.saver else None,
            **breakpoints(self.options),
        ):  # fmt: skip
            namespace, mode, chunk = told if wanted else ((), *told)
            if mode in wanted and self.stream is not None:
                self.stream(chunk_json(mode, namespace, chunk))
            if namespace:  # of a subgraph
                continue
            if mode in STREAM_MODES and observed:
                tell_chunk(self.context, mode, chunk, began_s)
            elif mode in ("updates", "values"):
                state = chunk if mode == "values" else state
                paused = paused or _has_paused(chunk)
        return state, paused if self.saver is None else not self.saver.is_over

    def _modes(self, observed: bool, wanted: frozenset[str]) -> list[str]:
        """What LangGraph is asked to stream. A stop before or after a node is seen in its updates, unless the run is
        stored: then its last checkpoint tells."""
        seen = ("values",) if self.saver is not None else ("updates", "values")
        modes = {*seen, *(STREAM_MODES if observed else ()), *wanted}
        return sorted((modes | {ROOT_MODE}) - {EVENTS} if EVENTS in wanted else modes)

    async def _interrupts(self, state: Any, config: Any) -> list[Interrupted]:
        """What the paused graph waits for; nothing: it has not paused. A stop before or after a node is found by the
        nodes that would be next."""
        if self.saver is None:
            raise BadTask(
                "the graph has paused (interrupt(), interrupt_before or interrupt_after), and nothing here can resume"
                " it: let it run to its end, or make what follows the pause a task of its own"
            )
        if not hasattr(self.graph, "aget_state"):
            return [Interrupted(each.id, "", each.value) for each in state[INTERRUPT]]
        now = {name: value for name, value in config["configurable"].items() if name != "checkpoint_id"}
        snapshot = await self.graph.aget_state({**config, "configurable": now})
        asked = [Interrupted(each.id, task.name, each.value) for task in snapshot.tasks for each in task.interrupts]
        return asked or [Interrupted(f"{BREAKPOINT}{node}", node, None) for node in dict.fromkeys(snapshot.next)]


def _has_paused(output: Any) -> bool:
    return isinstance(output, dict) and INTERRUPT in output
