"""The coordinator's graph: work off the batch; once a heartbeat, watch who is there as well."""

from __future__ import annotations

from functools import cache
from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from coordinator.rules import watch, work
from core.step import Thought, Turn

__all__ = ["build"]

Next = Literal["watch", "__end__"]


@cache
def build() -> Thought:
    """The compiled graph, ready to run, one for all agents of a process. Its nodes fill the turn's step in place, so
    they have nothing to merge.
    """
    graph = StateGraph(Turn)
    graph.add_node("work", _work)
    graph.add_node("watch", _watch)
    graph.add_edge(START, "work")
    graph.add_edge("watch", END)
    return Thought(graph.compile(name="coordinator"), "work")


def _work(state: Turn) -> Command[Next]:
    work(state["state"], state["batch"], state["step"])
    return Command(goto="watch" if state["batch"].beating else "__end__")


def _watch(state: Turn) -> None:
    watch(state["state"], state["batch"], state["step"])
