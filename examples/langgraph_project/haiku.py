"""A graph that is made for each run, from its config, and finds who asks in its context."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime


@dataclass
class Reader:
    name: str = "reader"


class Poem(TypedDict, total=False):
    topic: str
    lines: list[str]
    dedication: str


def dedicate(state: Poem, runtime: Runtime[Reader]) -> Poem:
    return {"dedication": f"for {runtime.context.name}"}


@asynccontextmanager
async def make_graph(config: RunnableConfig) -> AsyncIterator[StateGraph[Poem, Reader]]:
    lines = int(config["configurable"].get("lines", 3))

    async def write(state: Poem) -> Poem:
        return {"lines": [f"{state['topic']}, line {number}" for number in range(1, lines + 1)]}

    graph = StateGraph(Poem, context_schema=Reader)
    graph.add_node("write", write)
    graph.add_node("dedicate", dedicate)
    graph.add_edge(START, "write")
    graph.add_edge("write", "dedicate")
    yield graph
