"""What a graph looks like, so that a run that goes on can be told when it is another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["SENDS", "TRIGGERS", "shape_digest", "unnamed_triggers"]

#: How the channel is named by which LangGraph calls a node when another one has ended.
CALLS = "branch:to:"
#: The channel with what `Send` calls: those nodes run next.
SENDS = "__pregel_tasks"
#: The key in the metadata of a checkpoint under which `unnamed_triggers` are told.
TRIGGERS = "triggers"

_digests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_triggers: WeakKeyDictionary[Any, dict[str, dict[str, list[str]]]] = WeakKeyDictionary()


def shape_digest(graph: Any) -> str:
    """16 characters that say which nodes, edges, branches and channels a graph and its subgraphs have; empty if that
    cannot be seen. The code of the nodes does not count: it would differ between versions of Python, and what it
    calls would not be seen."""
    from langgraph.pregel import Pregel

    if not isinstance(graph, Pregel):
        return ""
    if (digest := _digests.get(graph)) is None:
        shapes = [("", graph), *graph.get_subgraphs(recurse=True)]
        text = repr([(name, sorted(_shape(each))) for name, each in shapes])
        digest = _digests[graph] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return digest


def _shape(graph: Any) -> Iterator[tuple[str, ...]]:
    for name in getattr(graph, "nodes", ()):
        yield "node", name
    builder = getattr(graph, "builder", None)
    if builder is None:  # a functional graph is drawn as one node
        return
    for name, channel in builder.channels.items():
        yield "channel", name, type(channel).__name__
    for start, end in builder.edges:
        yield "edge", start, end
    for starts, end in builder.waiting_edges:
        yield "waiting edge", *sorted(starts), end
    for start, branches in builder.branches.items():
        for name, branch in branches.items():
            yield "branch", start, name, *sorted((branch.ends or {}).values())


def unnamed_triggers(graph: Any) -> dict[str, dict[str, list[str]]]:
    """The channels that call nodes of a graph and of its subgraphs, for those nodes that are called by others than the
    one that has their name, so that whoever reads a checkpoint without the graph knows what runs next: see
    `core.checkpoints.snapshots`. The outermost graph has the name "", others the names of their nodes with | between
    them."""
    from langgraph.pregel import Pregel

    if not isinstance(graph, Pregel):
        return {}
    if (told := _triggers.get(graph)) is None:
        every = {name: _unnamed(each) for name, each in [("", graph), *graph.get_subgraphs(recurse=True)]}
        told = _triggers[graph] = {name: nodes for name, nodes in every.items() if nodes}
    return told


def _unnamed(graph: Any) -> dict[str, list[str]]:
    known = {"__start__": {"__start__"}}
    return {
        name: sorted(node.triggers)
        for name, node in graph.nodes.items()
        if set(node.triggers) != known.get(name, {f"{CALLS}{name}"})
    }
