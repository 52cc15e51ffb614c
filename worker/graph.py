"""The worker's graph. One node: a worker only listens; what it does are effects."""

from __future__ import annotations

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from core.step import Turn
from worker.rules import listen

__all__ = ["build"]


def build() -> CompiledStateGraph[Turn, None, Turn, Turn]:
    """The compiled graph. Its node fills the turn's step in place, so it has nothing to merge."""
    graph = StateGraph(Turn)
    graph.add_node("listen", _listen)
    graph.add_edge(START, "listen")
    graph.add_edge("listen", END)
    return graph.compile(name="worker")


def _listen(state: Turn) -> None:
    listen(state["state"], state["batch"], state["step"])
