"""LangGraph agents whose nodes are those that their configs name, for the tests of graphs that change."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from worker.authoring.handlers import agent


class Done(TypedDict, total=False):
    done: Annotated[list[str], operator.add]


def node(name: str) -> Callable[..., Any]:
    return lambda state: {"done": [interrupt("?") if name.startswith("ask") else name]}


@agent("changes")
def changes(config: RunnableConfig) -> StateGraph[Any]:
    names = config["configurable"]["nodes"]
    builder: StateGraph[Any] = StateGraph(Done)
    return builder.add_sequence([(name, node(name)) for name in names]).add_edge(START, names[0])


@agent("changes_below")
def changes_below(config: RunnableConfig) -> StateGraph[Any]:
    """The graph of these nodes stands in another one."""
    builder: StateGraph[Any] = StateGraph(Done)
    builder.add_node("first", node("first")).add_node("below", changes(config).compile()).add_node("last", node("last"))
    return builder.add_edge(START, "first").add_edge("first", "below").add_edge("below", "last")
