"""Runs LangGraph graphs in a child process. Each is built once; all run on one event loop, which lives as long as the
child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from core.errors import BadTask
from worker.authoring.context import Context
from worker.authoring.registry import Handler
from worker.children.graph_events import STREAM_MODES, callbacks_for, tell_chunk

__all__ = ["GraphRunner"]

#: The key in LangGraph's output that says that a graph has paused.
INTERRUPT = "__interrupt__"


class GraphRunner:
    """Runs the graphs of one child. A graph is compiled when it first runs. The event loop outlives the runs, since
    clients that a graph keeps are bound to it."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._compiled: dict[str, Any] = {}

    def run(
        self, handler: Handler, payload: Any, context: Context, descriptor: int, cancelled: Callable[[], bool]
    ) -> Any:
        """Runs the handler's graph on `payload`, and returns its final state.

        When `descriptor` becomes readable and `cancelled()` is true, the run is cancelled. Raises BadTask when the
        payload is not a dict, the builder returned no graph, or the graph has paused; and whatever a node raises.
        """
        if not isinstance(payload, dict):
            raise BadTask(
                f"payload of {handler.task_type!r} must be an object, the first state of its graph,"
                f" not {type(payload).__name__}"
            )
        if self._runner is None or self._runner.get_loop().is_closed():
            # Made by a factory, it does not become the current loop, which functions may use and close.
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        graph = self._graph(handler)
        return self._runner.run(_invoke(graph, payload, context, descriptor, cancelled), context=copy_context())

    def _graph(self, handler: Handler) -> Any:
        graph = self._compiled.get(handler.task_type)
        if graph is None:
            graph = handler.function()
            if not hasattr(graph, "ainvoke"):
                if not hasattr(graph, "compile"):
                    raise BadTask(f"{handler.qualname} must return a LangGraph graph, not a {type(graph).__name__}")
                graph = graph.compile()
            self._compiled[handler.task_type] = graph
        return graph


async def _invoke(
    graph: Any, payload: dict[str, Any], context: Context, descriptor: int, cancelled: Callable[[], bool]
) -> Any:
    loop = asyncio.get_running_loop()
    this_run = asyncio.current_task()

    def on_news() -> None:
        if cancelled() and this_run is not None:
            context.cancel()
            this_run.cancel()

    loop.add_reader(descriptor, on_news)
    try:
        return await _final_state(graph, payload, context)
    finally:
        await context.close()
        loop.remove_reader(descriptor)


async def _final_state(graph: Any, payload: dict[str, Any], context: Context) -> Any:
    """Does as `ainvoke`, but raises BadTask for a graph that pauses, for which `ainvoke` returns an unfinished
    state."""
    from langgraph.pregel import Pregel

    state, paused = None, False
    observed = context.on_event is not None
    config: Any = {"callbacks": callbacks_for(context)} if observed else None
    began_s: dict[str, float] = {}
    if isinstance(graph, Pregel):  # the result of ainvoke does not show a stop before or after a node
        output_keys = graph.output_channels
        modes = ["updates", "values", *(STREAM_MODES if observed else ())]
        async for mode, chunk in graph.astream(
            payload, config, context=context, stream_mode=modes, output_keys=output_keys
        ):
            if mode in STREAM_MODES:
                tell_chunk(context, mode, chunk, began_s)
                continue
            state = chunk if mode == "values" else state
            paused = paused or _has_paused(chunk)
    else:  # the graph is wrapped in something else
        state = await graph.ainvoke(payload, config, context=context)
        paused = _has_paused(state)
    if paused:
        raise BadTask(
            "the graph has paused (interrupt(), interrupt_before or interrupt_after), and nothing here can resume it:"
            " let it run to its end, or make what follows the pause a task of its own"
        )
    return state


def _has_paused(output: Any) -> bool:
    return isinstance(output, dict) and INTERRUPT in output
