"""The coordinator's graph: listen to the batch, then hand out what can be handed out."""

from __future__ import annotations

from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from coordinator.rules import dispatch, has_work, listen
from core.step import Thought, Turn

__all__ = ["build"]

Next = Literal["dispatch", "__end__"]


def build() -> Thought:
    """The compiled graph, ready to run. Its nodes fill the turn's step in place, so they have nothing to merge."""
    graph = StateGraph(Turn)
    graph.add_node("listen", _listen)
    graph.add_node("dispatch", _dispatch)
    graph.add_edge(START, "listen")
    graph.add_edge("dispatch", END)
    return Thought(graph.compile(name="coordinator"), "listen")


def _listen(state: Turn) -> Command[Next]:
    listen(state["state"], state["batch"], state["step"])
    return Command(goto="dispatch" if has_work(state["state"]) else "__end__")


def _dispatch(state: Turn) -> None:
    dispatch(state["state"], state["batch"], state["step"])
