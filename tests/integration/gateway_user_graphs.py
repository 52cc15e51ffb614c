"""LangGraph graphs that clients of a gateway run."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import Annotated, Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langgraph.config import get_config, get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from typing_extensions import TypedDict

from tests.waiting import until_async
from worker.authoring.handlers import agent

HERE = Path(os.environ["USER_CODE_FOLDER"])


class Steps(TypedDict, total=False):
    done: Annotated[list[str], operator.add]
    hold: bool


async def first(state: Steps) -> Steps:
    get_stream_writer()({"at": "first"})
    return {"done": ["first"]}


async def second(state: Steps) -> Steps:
    get_stream_writer()({"at": "second"})
    if state.get("hold"):
        (HERE / "held").touch()
        await until_async(lambda: (HERE / "go").exists(), "it may go on")
    return {"done": ["second"]}


@tool
def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


@agent("doubles")
def doubles() -> StateGraph[Any]:
    """One that makes the calls of tools that its last message asks for."""
    return StateGraph(MessagesState).add_node("tools", ToolNode([double])).add_edge(START, "tools")


class Manners(TypedDict, total=False):
    greeting: str


@agent("steps")
def steps() -> StateGraph[Any, Any]:
    return StateGraph(Steps, context_schema=Manners).add_sequence([first, second]).add_edge(START, "first")


async def approve(state: Steps) -> Steps:
    return {"done": [interrupt({"question": "really?"})]}


@agent("asks")
def asks() -> StateGraph[Any]:
    return StateGraph(Steps).add_sequence([first, approve, second]).add_edge(START, "first")


def inner_graph() -> Any:
    return StateGraph(Steps).add_sequence([first, approve]).add_edge(START, "first").compile()


@agent("nests")
def nests() -> StateGraph[Any]:
    """One whose question is asked by a subgraph."""
    return (
        StateGraph(Steps)
        .add_node("inner", inner_graph())
        .add_node(second)
        .add_edge(START, "inner")
        .add_edge("inner", "second")
    )


async def say(state: MessagesState) -> dict[str, Any]:
    model = GenericFakeChatModel(messages=iter([AIMessage("hello there")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


@agent("chats")
def chats() -> StateGraph[Any]:
    return StateGraph(MessagesState).add_node("say", say).add_edge(START, "say")


class Told(MessagesState):
    count: int
    raw: bytes


class Note(BaseMessage):
    """A message of a kind that only its author knows."""

    type: str = "note"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


#: What no parser of JSON takes, or not each.
HARD = [10**308, -(10**400), 10**5000, math.nan, math.inf, "\ud800", b"\xff", nested(300), nested(5000), {10**5000: 1}]


async def tell(state: Told) -> dict[str, Any]:
    for value in HARD:
        get_stream_writer()({"value": value})
    get_stream_writer()("the last")
    messages = [
        Note(content="a note", id="note"),
        AIMessage("x" * 300_000, id="large"),
        AIMessage("said", id="said"),
    ]
    return {"messages": messages, "raw": b"\xff"}


@agent("tells", retries=0)
def tells() -> StateGraph[Any]:
    """One that tells what is hard to tell. Its result is no JSON."""
    return StateGraph(Told).add_node("tell", tell).add_edge(START, "tell")


async def greet(state: Steps, runtime: Runtime[Manners]) -> Steps:
    return {"done": [runtime.context["greeting"]]}


@agent("greets")
def greets() -> StateGraph[Any, Any]:
    return StateGraph(Steps, context_schema=Manners).add_node("greet", greet).add_edge(START, "greet")


async def recall(state: Steps, runtime: Runtime[Any]) -> Steps:
    assert runtime.store is not None
    return {"done": sorted([item.value["text"] for item in await runtime.store.asearch(("notes", "ada"))])}


@agent("recalls")
def recalls() -> StateGraph[Any]:
    return StateGraph(Steps).add_node("recall", recall).add_edge(START, "recall")


async def own(state: Steps, runtime: Runtime[Any]) -> Steps:
    tenant = get_config()["configurable"]["langgraph_auth_user_id"]
    assert runtime.store is not None
    return {
        "done": [tenant, *[one.value["text"] for one in await runtime.store.asearch((f"tenant:{tenant}", "notes"))]]
    }


@agent("owns")
def owns() -> StateGraph[Any]:
    """One that finds what is its tenant's in the store."""
    return StateGraph(Steps).add_node("own", own).add_edge(START, "own")


@agent("alone", isolated=True)
def alone() -> StateGraph[Any]:
    return StateGraph(Steps).add_node("first", first).add_edge(START, "first")


async def fail(state: Steps) -> Steps:
    raise ValueError("no such thing")


@agent("fails", retries=0)
def fails() -> StateGraph[Any]:
    return StateGraph(Steps).add_node("fail", fail).add_edge(START, "fail")
