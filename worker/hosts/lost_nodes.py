"""The nodes with which a run would go on, and which its graph no longer has, since it was changed meanwhile."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

    from core.checkpoints.snapshots import NextTask

__all__ = ["lost_nodes"]

#: Gives the newest checkpoint of a namespace.
Read: TypeAlias = Callable[[str], Awaitable["CheckpointTuple | None"]]


async def lost_nodes(graph: Any, found: CheckpointTuple, read: Read) -> list[str]:
    """The nodes that would run next from a checkpoint, in the graph or in one below it, and that these no longer have.
    LangGraph would leave them out, and what follows from them. A node of a graph below has the name of the node that
    calls its graph before its own, with | between them."""
    return sorted({name async for name in _lost(_graphs([graph]), found, read)})


async def _lost(graphs: Sequence[Any], found: CheckpointTuple, read: Read) -> AsyncIterator[str]:
    """`graphs`: those of which one has made the checkpoint; a node is lost that none of them has. Nothing is lost where
    no graph can be seen."""
    from core.checkpoints.snapshots import snapshot_of

    for task in snapshot_of(found, is_newest=True).tasks if graphs else ():
        having = [graph for graph in graphs if task.name in graph.nodes]
        if task.has_ended:
            continue
        if not having:
            yield task.name
        below = [each for graph in having for each in _called_by(graph, task.name)]
        async for stands in _checkpoints(task, below, read):
            async for name in _lost(below, stands, read):
                yield f"{task.name}|{name}"


def _called_by(graph: Any, name: str) -> list[Any]:
    """The graphs that a node may call: it is one, or it is a function that names some."""
    bound = graph.nodes[name].bound
    function: Any = getattr(bound, "func", None) or getattr(bound, "afunc", None)
    named: list[Any] = [*graph.nodes[name].subgraphs]
    with suppress(TypeError, ValueError):  # it is no function, or names something that is not there yet
        seen = inspect.getclosurevars(function)
        named += [*seen.nonlocals.values(), *seen.globals.values()]
    return _graphs(named)


def _graphs(values: Sequence[Any]) -> list[Any]:
    from langgraph.pregel import Pregel

    return [value for value in values if isinstance(value, Pregel)]


async def _checkpoints(task: NextTask, below: Sequence[Any], read: Read) -> AsyncIterator[CheckpointTuple]:
    """Where the graphs stand that a task has called. A node may have called several, one after the other."""
    if not below:
        return
    for number in count():
        found = await read(f"{task.namespace}|{number}" if number else task.namespace)
        if found is None:
            break
        yield found
    if any(graph.checkpointer is True for graph in below):  # it has one memory for all its runs in a thread
        names = (part.partition(":")[0] for part in task.namespace.split("|") if not part.isdigit())
        if found := await read("|".join(names)):
            yield found
