"""LangGraph agents that end in all ways, for the tests of what is stored of them."""

from __future__ import annotations

import asyncio
import operator
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt

from worker.authoring.context import current_context
from worker.authoring.handlers import agent

HERE = Path(os.environ["USER_CODE_FOLDER"])


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]
    large: Any


def graph_of(*nodes: Callable[..., Any]) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_sequence([(node.__name__, node) for node in nodes])
    return graph.add_edge(START, nodes[0].__name__)


def begins(node: str) -> None:
    with (HERE / f"{current_context().task_id}.nodes").open("a") as file:
        file.write(f"{node}\n")


def one(state: State) -> State:
    begins("one")
    return {"done": ["one"]}


def two(state: State) -> State:
    begins("two")
    return {"done": ["two"]}


def nothing(state: State) -> State:
    return {}


def ask(state: State) -> State:
    begins("ask")
    return {"done": [interrupt("which?")]}


def change_and_ask(state: State) -> State:
    state["done"].append("changed")
    return ask(state)


def enlarge(state: State) -> State:
    begins("enlarge")
    return {"large": "x" * 300_000}


agent("ending.one")(graph_of(one))
agent("ending.two")(graph_of(one, two))
agent("ending.nothing")(graph_of(nothing))
agent("ending.asks")(graph_of(ask))
agent("ending.changes")(graph_of(change_and_ask))
agent("ending.enlarges")(graph_of(enlarge))


def again(state: State) -> Command[str]:
    """Sends to itself, which no edge shows."""
    begins("again")
    return Command(update={"done": ["again"]}, goto="again" if len(state["done"]) < 2 else "__end__")


def each(state: State) -> State:
    begins("each")
    return {"done": ["each"]}


agent("ending.loops")(graph_of(again))
agent("ending.sends")(graph_of(one).add_node(each).add_conditional_edges("one", lambda state: [Send("each", {})] * 2))

below = graph_of(one, two).compile(interrupt_before=["two"])


async def calls(state: State) -> State:
    """Calls a graph that stops before one of its nodes."""
    begins("calls")
    return {"done": (await below.ainvoke({"done": []}))["done"]}


agent("ending.calls")(graph_of(calls))


def call_in_a_loop_of_its_own(state: State) -> State:
    begins("call")
    return {"done": asyncio.run(graph_of(one, two).compile().ainvoke({"done": []}))["done"]}


agent("ending.calls_elsewhere")(graph_of(one, call_in_a_loop_of_its_own, two))


@agent("ending.closes_badly")
@asynccontextmanager
async def closes_badly() -> AsyncIterator[Any]:
    """Fails once, after its last node."""
    yield graph_of(one, two)
    if current_context().attempt == 1:
        raise ConnectionError("cannot be closed")
