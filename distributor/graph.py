"""The distributor's graph: work off the batch; once a heartbeat, watch who is there as well."""

from __future__ import annotations

from functools import cache
from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from core.tier_graph import TickContext, TickState, TierGraph
from distributor.rules import watch, work
from distributor.state import DistributorState

__all__ = ["build"]

Next = Literal["watch", "__end__"]
Context = TickContext[DistributorState]


@cache
def build() -> TierGraph:
    """The compiled graph, ready to run, one for all agents of a process."""
    graph = StateGraph(TickState, context_schema=TickContext)
    graph.add_node("work", _work)
    graph.add_node("watch", _watch)
    graph.add_edge(START, "work")
    graph.add_edge("watch", END)
    return TierGraph(graph.compile(name="distributor"))


def _work(state: TickState, runtime: Runtime[Context]) -> Command[Next]:
    memory, batch = runtime.context.memory, runtime.context.batch
    work(memory, batch, state["step"])
    return Command(goto="watch" if batch.beating else "__end__")


def _watch(state: TickState, runtime: Runtime[Context]) -> None:
    watch(runtime.context.memory, runtime.context.batch, state["step"])
