"""The worker's graph. One node: it takes and reports; running tasks is an effect."""

from __future__ import annotations

from functools import cache

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from core.tier_graph import TickContext, TickState, TierGraph
from worker.rules import WorkerState, work

__all__ = ["build"]


@cache
def build() -> TierGraph:
    """The compiled graph, ready to run, one for all agents of a process."""
    graph = StateGraph(TickState, context_schema=TickContext)
    graph.add_node("work", _work)
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return TierGraph(graph.compile(name="worker"))


def _work(state: TickState, runtime: Runtime[TickContext[WorkerState]]) -> None:
    work(runtime.context.memory, runtime.context.batch, state["step"])
