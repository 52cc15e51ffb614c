"""A LangGraph graph that tells many numbers, for readers that are interrupted."""

from __future__ import annotations

import asyncio
from typing import Any

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from worker.authoring.handlers import agent


class Count(TypedDict):
    up_to: int


async def count(state: Count) -> Count:
    tell = get_stream_writer()
    for number in range(state["up_to"]):
        tell(number)
        await asyncio.sleep(0.004)
    return {"up_to": state["up_to"]}


@agent("counts")
def counts() -> StateGraph[Any]:
    return StateGraph(Count).add_node(count).add_edge(START, "count")
