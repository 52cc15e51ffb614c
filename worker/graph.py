"""The worker's graph. One node: a worker only listens; what it does are effects."""

from __future__ import annotations

from langgraph.graph import END, START, StateGraph

from core.step import Thought, Turn
from worker.rules import listen

__all__ = ["build"]


def build() -> Thought:
    """The compiled graph, ready to run. Its node fills the turn's step in place, so it has nothing to merge."""
    graph = StateGraph(Turn)
    graph.add_node("listen", _listen)
    graph.add_edge(START, "listen")
    graph.add_edge("listen", END)
    return Thought(graph.compile(name="worker"), "listen")


def _listen(state: Turn) -> None:
    listen(state["state"], state["batch"], state["step"])
