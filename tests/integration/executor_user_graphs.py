"""LangGraph agents as users write them, for the tests of the executor."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from worker.authoring.context import Context, current_context
from worker.authoring.handlers import agent


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


def pausing(pause: bool = False, **compiled: Any) -> Any:
    """Two nodes, of which the second may ask somebody first."""

    def judged(state: Review) -> Review:
        return {"length": 1 if pause and interrupt("may I?") else 2}

    graph = StateGraph(Review)
    graph.add_node("draft", lambda state: {"text": "draft"})
    graph.add_node("judged", judged)
    graph.add_edge(START, "draft")
    graph.add_edge("draft", "judged")
    graph.add_edge("judged", END)
    return graph.compile(**compiled)


def above(below: Any) -> Any:
    """A graph with another one as its node."""
    graph = StateGraph(Review)
    graph.add_node("below", below)
    graph.add_edge(START, "below")
    return graph.compile()


class Verdict(TypedDict):
    length: int


def narrow() -> Any:
    """One that gives less than it knows."""
    graph = StateGraph(Review, output_schema=Verdict)
    graph.add_node("judge", lambda state: {"length": 3, "attempt": 1})
    graph.add_edge(START, "judge")
    return graph.compile()


agent("narrow")(narrow())
THREAD = {"configurable": {"thread_id": "one"}}
agent("never_pauses")(pausing())
agent("asks")(pausing(True))
agent("asks_and_remembers")(pausing(True, checkpointer=InMemorySaver()).with_config(THREAD))
agent("asks_below")(above(pausing(True)))
agent("asks_wrapped")(pausing(True).with_retry())
agent("stops_before")(pausing(interrupt_before=["judged"]))
agent("stops_at_once")(pausing(interrupt_before="*"))
agent("stops_after")(pausing(interrupt_after=["draft"]))
agent("stops_and_remembers")(pausing(interrupt_before=["judged"], checkpointer=InMemorySaver()).with_config(THREAD))
agent("stops_below")(above(pausing(interrupt_before=["judged"])))


@agent("broken_review")
def build_broken() -> object:
    return "no graph"
