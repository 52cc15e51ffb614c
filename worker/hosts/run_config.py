"""What LangGraph is given of a run besides its input: the config, and what nodes find as `runtime.context`."""

from __future__ import annotations

from typing import Any, Literal

from core.agent_run import RunOptions
from core.errors import BadTask
from worker.authoring.context import Context
from worker.authoring.graph_factory import made_context
from worker.authoring.registry import Handler

__all__ = ["breakpoints", "command_of", "run_config", "runtime_context", "state_updates", "subgraph_at"]


def run_config(handler: Handler, context: Context, options: RunOptions) -> dict[str, Any]:
    """The RunnableConfig of a run: what the client gave, and the thread. A name that the client gave none is the
    handler's."""
    config = options.config
    config.setdefault("run_name", handler.name or handler.task_type)
    config["configurable"] = {**config.get("configurable", {}), "thread_id": options.thread_id or context.task_id}
    return config


def runtime_context(graph: Any, context: Context, options: RunOptions) -> Any:
    """What nodes find as `runtime.context`: what the client gave, in the form that the graph asks for; of a graph that
    asks for our Context, that of the attempt.

    Raises BadTask when what the client gave does not fit the graph."""
    schema = getattr(graph, "context_schema", None)
    return context if schema is Context else made_context(schema, options.context)


def breakpoints(options: RunOptions) -> dict[str, Any]:
    """The nodes before and after which the run stops, as arguments of `astream`; none: those that the graph names."""
    told = {"interrupt_before": options.interrupt_before, "interrupt_after": options.interrupt_after}
    return {name: _nodes(nodes) for name, nodes in told.items() if nodes}


def _nodes(names: tuple[str, ...]) -> list[str] | Literal["*"]:
    return "*" if "*" in names else list(names)


def command_of(given: Any) -> Any:
    """LangGraph's Command, of what a client says of one. Raises BadTask."""
    from langgraph.types import Command, Send

    try:
        fields = {name: value for name, value in given.items() if value is not None}
        if (goto := fields.get("goto")) is not None:
            targets = goto if isinstance(goto, list) else [goto]
            fields["goto"] = [to if isinstance(to, str) else Send(to["node"], to.get("input")) for to in targets]
        if isinstance(update := fields.get("update"), list):
            fields["update"] = [tuple(pair) for pair in update]
        return Command(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadTask(f"this is no command of update, goto and resume: {error}") from None


def subgraph_at(graph: Any, namespace: str) -> Any:
    """The subgraph whose checkpoints have this namespace, `NODE:TASK`, and so on with | between them; empty: the graph
    itself. Raises BadTask."""
    if not namespace:
        return graph
    nodes = "|".join(part.partition(":")[0] for part in namespace.split("|") if not part.isdigit())
    for _, subgraph in graph.get_subgraphs(namespace=nodes, recurse=True):
        return subgraph
    raise BadTask(f"the graph has no subgraph {nodes!r} that can be seen from outside: update the state of the graph")


def state_updates(steps: Any) -> list[list[Any]]:
    """What a client gives as steps, each a list of updates of nodes, as LangGraph takes it. Raises BadTask."""
    try:
        return [[_state_update(update) for update in step] for step in steps]
    except (AttributeError, TypeError) as error:
        raise BadTask(f"these are no steps, each a list of updates with values and as_node: {error}") from None


def _state_update(update: dict[str, Any]) -> Any:
    from langgraph.types import StateUpdate

    values: Any = command_of(update["command"]) if update.get("command") else update.get("values")
    return StateUpdate(values, update.get("as_node"))
