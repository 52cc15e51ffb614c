"""One run of a graph, from its first node to its outcome."""

from __future__ import annotations

from typing import Any

from core.agent_run import RunOptions
from core.errors import BadTask
from worker.authoring.context import Context
from worker.authoring.registry import Handler
from worker.hosts.graph_events import STREAM_MODES, callbacks_for, tell_chunk
from worker.hosts.run_config import breakpoints, runtime_context

__all__ = ["final_state"]

#: The key in LangGraph's output that says that a graph has paused.
INTERRUPT = "__interrupt__"


async def final_state(
    graph: Any, handler: Handler, payload: Any, context: Context, control: Any, options: RunOptions, config: Any
) -> Any:
    """The final state of a run. `control`: LangGraph's RunControl, by which it is asked to stop between two nodes.
    `config`: of the run, which gets callbacks in addition.

    Raises BadTask when the payload or the context is not what the graph takes, or the graph has paused; GraphDrained;
    and whatever a node raises.
    """
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.pregel import Pregel

    if isinstance(graph, CompiledStateGraph) and not isinstance(payload, dict):
        raise BadTask(
            f"payload of {handler.task_type!r} must be an object, the first state of its graph,"
            f" not {type(payload).__name__}"
        )
    if context.on_event is not None:
        config = {**config, "callbacks": callbacks_for(context)}
    if isinstance(graph, Pregel):  # the result of ainvoke does not show a stop before or after a node
        state, paused = await _streamed(graph, payload, config, context, options, control)
    else:  # the graph is wrapped in something else
        state = await graph.ainvoke(payload, config, context=runtime_context(graph, context, options))
        paused = _has_paused(state)
    if paused:
        raise BadTask(
            "the graph has paused (interrupt(), interrupt_before or interrupt_after), and nothing here can resume it:"
            " let it run to its end, or make what follows the pause a task of its own"
        )
    return state


async def _streamed(
    graph: Any, payload: Any, config: Any, context: Context, options: RunOptions, control: Any
) -> tuple[Any, bool]:
    """The final state, and whether the graph has paused. Tells observers of what happens meanwhile."""
    state, paused = None, False
    began_s: dict[str, float] = {}
    modes = ["updates", "values", *(STREAM_MODES if context.on_event is not None else ())]
    async for mode, chunk in graph.astream(
        payload, config, context=runtime_context(graph, context, options), stream_mode=modes,
        output_keys=graph.output_channels, control=control, **breakpoints(options),
    ):  # fmt: skip
        if mode in STREAM_MODES:
            tell_chunk(context, mode, chunk, began_s)
            continue
        state = chunk if mode == "values" else state
        paused = paused or _has_paused(chunk)
    return state, paused


def _has_paused(output: Any) -> bool:
    return isinstance(output, dict) and INTERRUPT in output
