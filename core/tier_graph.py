"""How a tier's LangGraph graph is run: once for each batch, however many messages are in it, since a run costs some
tenths of a millisecond whatever it sees.

The context of a run is what it is given: the agent's memory and the batch. Its state is what it decides: the step. The
nodes change both in place, so they return nothing that LangGraph would have to merge. That is safe because nobody else
holds them: should the commit be refused for good, the process discards its memory and reads the stored one again.
"""

from __future__ import annotations

import atexit
from contextvars import Context
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from core.step import Batch, Step

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    Compiled: TypeAlias = CompiledStateGraph["TickState", "TickContext[Any]", "TickState", "TickState"]

__all__ = ["TickContext", "TickState", "TierGraph", "first_run"]

Memory = TypeVar("Memory")


class TickState(TypedDict):
    """The state of a tier's graph: what the run decides."""

    step: Step


@dataclass(frozen=True, slots=True)
class TickContext(Generic[Memory]):
    """The context of a run: what it decides from."""

    memory: Memory  #: the agent's own, as the last run left it
    batch: Batch


class TierGraph:
    """A tier's compiled graph, and a shorter way to run it."""

    def __init__(self, graph: Compiled) -> None:
        self.graph = graph  #: as LangGraph compiled it: to be drawn, and invoked with a TickState and a TickContext
        self._entered, self._trigger = entered_at_first_node(graph)
        self._untraced = untraced()

    def run(self, memory: object, batch: Batch) -> Step:
        """The step that the graph takes on `batch`. Nodes are plain functions without I/O, so this never blocks."""
        step = Step()
        self._untraced.copy().run(self._run, step, TickContext(memory, batch))
        return step

    def _run(self, step: Step, context: TickContext[Any]) -> None:
        given: Any = {"step": step, self._trigger: None}
        for _ in self._entered.stream(given, context=context, stream_mode="values"):
            pass  # nothing streams: the nodes fill the step


def entered_at_first_node(graph: Compiled) -> tuple[Compiled, str]:
    """A copy of `graph` that skips START, and the channel that triggers its first node.

    LangGraph runs START as a node of its own, at a third of the cost of a run. The copy takes its input on the channels
    that node would write: those of the state, and the one that triggers the first node.
    """
    [first] = (end for start, end in graph.builder.edges if start == "__start__")
    [trigger] = graph.nodes[first].triggers
    return graph.copy({"input_channels": [*TickState.__annotations__, trigger]}), trigger


@cache
def untraced() -> Context:
    """A context for runs that are nobody's to trace, whatever the environment says: LANGSMITH_TRACING is set for the
    graphs of users, and each run here has the payloads of everybody."""
    from langsmith.run_helpers import tracing_context

    context = Context()
    off = tracing_context(enabled=False)
    context.run(off.__enter__)
    atexit.register(context.run, off.__exit__, None, None, None)  # it must not be collected before
    return context


def first_run() -> None:
    """Runs a graph that does nothing: LangGraph imports more at its first run."""
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(TickState)
    graph.add_node("only", lambda state: None)
    graph.add_edge(START, "only")
    graph.add_edge("only", END)
    compiled = graph.compile()
    untraced().copy().run(lambda: compiled.invoke({"step": Step()}))
