"""The worker's graph. One node: it takes and reports; running tasks is an effect."""

from __future__ import annotations

from functools import cache

from langgraph.graph import END, START, StateGraph

from core.step import Thought, Turn
from worker.rules import work

__all__ = ["build"]


@cache
def build() -> Thought:
    """The compiled graph, ready to run, one for all agents of a process. Its node fills the turn's step in place, so it
    has nothing to merge.
    """
    graph = StateGraph(Turn)
    graph.add_node("work", _work)
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return Thought(graph.compile(name="worker"), "work")


def _work(state: Turn) -> None:
    work(state["state"], state["batch"], state["step"])
