"""A LangGraph graph that calls the server that runs it."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from typing_extensions import TypedDict

from worker.authoring.handlers import agent


class Calls(TypedDict, total=False):
    graph: str
    waited: Any
    streamed: list[str]


async def call(state: Calls) -> Calls:
    async with get_client() as client:
        run: Any = {"assistant_id": state["graph"], "input": {"done": ["called"]}}
        waited = await client.runs.wait(None, **run)
        streamed = [part.event async for part in client.runs.stream(None, **run, stream_mode=["updates", "custom"])]
    return {"waited": waited, "streamed": streamed}


@agent("calls", retries=0)
def calls() -> StateGraph[Any]:
    return StateGraph(Calls).add_node("call", call).add_edge(START, "call")
