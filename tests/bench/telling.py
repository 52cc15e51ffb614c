"""User code that tells: one event of its own, or the events of a graph with two nodes."""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph

from worker.authoring.context import Context
from worker.authoring.handlers import agent, task

__all__ = ["EMITS", "GRAPH"]

EMITS, GRAPH = "emits", "two_nodes"


@task(EMITS)
async def emits(payload: dict[str, Any], ctx: Context) -> int:
    ctx.emit("custom", {"number": payload["number"], "text": "half of it is done"})
    return int(payload["number"])


class State(TypedDict):
    number: int
    text: str


def outline(state: State) -> dict[str, str]:
    return {"text": state["text"] + " outlined"}


def fill(state: State) -> dict[str, str]:
    return {"text": state["text"] + " filled"}


@agent(GRAPH)
def two_nodes() -> StateGraph[State]:
    graph = StateGraph(State)
    graph.add_sequence([outline, fill])
    graph.add_edge(START, "outline")
    return graph
