"""User code that tells observers what it does."""

from __future__ import annotations

import logging
import sys
from typing import Any, TypedDict

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

from core.agent_event import AgentEvent
from core.errors import BadEvent
from core.event_types import EventType
from worker.authoring.context import Context
from worker.authoring.handlers import agent, task

__all__ = ["MODEL"]

MODEL = FakeListChatModel(responses=["four letters"])


@task("tells", retries=0)
def tells(payload: Any, ctx: Context) -> Any:
    ctx.emit("goal_progress", {"progress": 0.5}, node="planner")
    ctx.progress(0.5, "half")
    sys.stdout.write("a line that it prints\n")
    return payload


@task("tells_on_the_loop", retries=0)
async def tells_on_the_loop(payload: Any, ctx: Context) -> Any:
    ctx.emit(EventType.CUSTOM, {"payload": payload})
    logging.getLogger("user").warning("a line that it logs")
    return payload


@task("publishes", retries=0)
async def publishes(payload: Any, ctx: Context) -> list[Any]:
    heard: list[Any] = []

    async def hear(event: AgentEvent) -> None:
        heard.append(event.data)

    ctx.bus.subscribe([EventType.CUSTOM], hear)
    await ctx.bus.publish(AgentEvent(EventType.CUSTOM, data={"first": payload}))
    ctx.bus.publish_nowait(AgentEvent(EventType.CUSTOM, data={"last": payload}))  # the attempt waits for it
    ctx.bus.publish_nowait(AgentEvent(EventType.TASK_COMPLETED, data={"forged": True}))
    return heard


@task("tells_too_much", retries=0)
def tells_too_much(payload: Any, ctx: Context) -> list[str]:
    said = []
    for kind, data in (
        ("task_completed", {}),
        ("no_such_type", {}),
        ("custom", {"x": "x" * 20_000}),
        ("custom", {1: 2}),
    ):
        try:
            ctx.emit(kind, data)  # type: ignore[arg-type]
        except BadEvent as error:
            said.append(str(error))
    for number in range(5_000):
        ctx.emit("custom", {"number": number})
    return said


class Review(TypedDict, total=False):
    text: str
    verdict: str


@tool
def letters(text: str) -> int:
    """How many letters there are."""
    return len(text)


async def judge(state: Review) -> Review:
    get_stream_writer()({"heard": state["text"]})
    await letters.ainvoke({"text": state["text"]})
    return {"verdict": str((await MODEL.ainvoke(state["text"])).content)}


@agent("telling_graph")
def telling_graph() -> StateGraph[Review]:
    graph = StateGraph(Review)
    graph.add_node("judge", judge)
    graph.add_edge(START, "judge")
    return graph
