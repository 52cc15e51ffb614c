"""A LangGraph agent whose nodes are those that its config names, for the tests of graphs that change."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

from worker.authoring.handlers import agent


class Done(TypedDict, total=False):
    done: Annotated[list[str], operator.add]


def node(name: str) -> Callable[..., Any]:
    return lambda state: {"done": [name]}


@agent("changes")
def changes(config: RunnableConfig) -> StateGraph[Any]:
    names = config["configurable"]["nodes"]
    builder: StateGraph[Any] = StateGraph(Done)
    return builder.add_sequence([(name, node(name)) for name in names]).add_edge(START, names[0])
