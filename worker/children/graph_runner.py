"""Runs LangGraph graphs in a child process: built once, on one event loop that lives as long as the child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from core.errors import BadTask
from worker.authoring.context import Context
from worker.authoring.registry import Handler

__all__ = ["GraphRunner"]

#: What LangGraph puts into its output in the place of what is not done yet.
INTERRUPT = "__interrupt__"


class GraphRunner:
    """The graphs of one child, compiled when first asked for. Its loop outlives the runs, as clients expect."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._compiled: dict[str, Any] = {}

    def run(
        self, handler: Handler, payload: Any, context: Context, descriptor: int, cancelled: Callable[[], bool]
    ) -> Any:
        """The final state of the handler's graph, started with `payload`.

        `descriptor` becomes readable when there is news for this child; when `cancelled()` says so then, the run is
        cancelled. Raises BadTask when the payload is no dict, the builder gave no graph, or the graph has paused; else
        what a node raised.
        """
        if not isinstance(payload, dict):
            raise BadTask(
                f"payload of {handler.task_type!r} must be an object, the first state of its graph,"
                f" not {type(payload).__name__}"
            )
        if self._runner is None or self._runner.get_loop().is_closed():
            # With a factory it does not become the current loop, which functions may take, and close.
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
        loop.remove_reader(descriptor)


async def _final_state(graph: Any, payload: dict[str, Any], context: Context) -> Any:
    """As `ainvoke`, which gives what there is by then of a graph that pauses. Raises BadTask for one."""
    from langgraph.pregel import Pregel

    state, paused = None, False
    if isinstance(graph, Pregel):  # what ainvoke gives does not tell whether it has stopped before or after a node
        output_keys = graph.output_channels
        async for mode, chunk in graph.astream(
            payload, context=context, stream_mode=["updates", "values"], output_keys=output_keys
        ):
            state = chunk if mode == "values" else state
            paused = paused or _has_paused(chunk)
    else:  # one with something around it
        state = await graph.ainvoke(payload, context=context)
        paused = _has_paused(state)
    if paused:
        raise BadTask(
            "the graph has paused (interrupt(), interrupt_before or interrupt_after), and nothing here can resume it:"
            " let it run to its end, or make what follows the pause a task of its own"
        )
    return state


def _has_paused(output: Any) -> bool:
    return isinstance(output, dict) and INTERRUPT in output
