"""One run of a graph, from its first node to its outcome."""

from __future__ import annotations

from typing import Any

from core.errors import BadTask
from worker.authoring.context import Context
from worker.authoring.registry import Handler
from worker.hosts.graph_events import STREAM_MODES, callbacks_for, tell_chunk

__all__ = ["Graphs", "final_state"]

#: The key in LangGraph's output that says that a graph has paused.
INTERRUPT = "__interrupt__"


class Graphs:
    """The graphs of one process. Each is built and compiled when it first runs."""

    def __init__(self) -> None:
        self._compiled: dict[str, Any] = {}

    def of(self, handler: Handler) -> Any:
        """The handler's graph. Raises BadTask when its builder returns none, and whatever the builder raises."""
        graph = self._compiled.get(handler.task_type)
        if graph is None:
            graph = handler.function()
            if not hasattr(graph, "ainvoke"):
                if not hasattr(graph, "compile"):
                    raise BadTask(f"{handler.qualname} must return a LangGraph graph, not a {type(graph).__name__}")
                graph = graph.compile()
            self._compiled[handler.task_type] = graph
        return graph


async def final_state(graph: Any, handler: Handler, payload: Any, context: Context, control: Any) -> Any:
    """The final state of a run. `control`: LangGraph's RunControl, by which it is asked to stop between two nodes.

    Raises BadTask when the payload is no object or the graph has paused; GraphDrained; and whatever a node raises.
    """
    from langgraph.pregel import Pregel

    if not isinstance(payload, dict):
        raise BadTask(
            f"payload of {handler.task_type!r} must be an object, the first state of its graph,"
            f" not {type(payload).__name__}"
        )
    config: Any = {"callbacks": callbacks_for(context)} if context.on_event is not None else None
    if isinstance(graph, Pregel):  # the result of ainvoke does not show a stop before or after a node
        state, paused = await _streamed(graph, payload, config, context, control)
    else:  # the graph is wrapped in something else
        state = await graph.ainvoke(payload, config, context=_runtime_context(graph, context))
        paused = _has_paused(state)
    if paused:
        raise BadTask(
            "the graph has paused (interrupt(), interrupt_before or interrupt_after), and nothing here can resume it:"
            " let it run to its end, or make what follows the pause a task of its own"
        )
    return state


async def _streamed(graph: Any, payload: Any, config: Any, context: Context, control: Any) -> tuple[Any, bool]:
    """The final state, and whether the graph has paused. Tells observers of what happens meanwhile."""
    state, paused = None, False
    began_s: dict[str, float] = {}
    modes = ["updates", "values", *(STREAM_MODES if context.on_event is not None else ())]
    async for mode, chunk in graph.astream(
        payload, config, context=_runtime_context(graph, context), stream_mode=modes,
        output_keys=graph.output_channels, control=control,
    ):  # fmt: skip
        if mode in STREAM_MODES:
            tell_chunk(context, mode, chunk, began_s)
            continue
        state = chunk if mode == "values" else state
        paused = paused or _has_paused(chunk)
    return state, paused


def _runtime_context(graph: Any, context: Context) -> Any:
    """What nodes find as `runtime.context`: the context of the attempt, if that is what the graph asks for."""
    return context if getattr(graph, "context_schema", None) is Context else None


def _has_paused(output: Any) -> bool:
    return isinstance(output, dict) and INTERRUPT in output
