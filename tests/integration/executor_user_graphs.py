"""LangGraph agents as users write them, for the tests of the executor."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime

from worker.context import Context, current_context
from worker.handlers import agent


class Review(TypedDict, total=False):
    text: str
    length: int
    attempt: int
    messages: Annotated[list[AnyMessage], add_messages]


def measure(state: Review) -> Review:
    return {"length": len(state["text"]), "attempt": current_context().attempt}


async def judge(state: Review, runtime: Runtime[Context]) -> Review:
    runtime.context.progress(1.0, "judged")
    assert runtime.context is current_context()
    return {"messages": [AIMessage(f"{state['length']} letters")]}


@agent("review")
def build_review() -> StateGraph[Review, Context]:
    graph = StateGraph(Review, context_schema=Context)
    graph.add_node("measure", measure)
    graph.add_node("judge", judge)
    graph.add_edge(START, "measure")
    graph.add_edge("measure", "judge")
    graph.add_edge("judge", END)
    return graph


def _stuck() -> StateGraph[Review]:
    async def wait(state: Review) -> Review:
        await asyncio.Event().wait()
        return state

    graph = StateGraph(Review)
    graph.add_node("wait", wait)
    graph.add_edge(START, "wait")
    return graph


agent("stuck_review")(_stuck().compile())


@agent("broken_review")
def build_broken() -> object:
    return "no graph"
