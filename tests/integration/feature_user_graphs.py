"""LangGraph agents, each of which needs one thing that LangGraph has, for the tests of what holds here."""

from __future__ import annotations

import asyncio
import operator
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, Send

from tests.waiting import until_async
from worker.authoring.context import current_context
from worker.authoring.handlers import agent

HERE = Path(os.environ["USER_CODE_FOLDER"])

tries: Counter[str] = Counter()  #: of the nodes that fail, by task
own_saver = InMemorySaver()


class Steps(TypedDict, total=False):
    done: Annotated[list[Any], operator.add]
    item: int


def of_nodes(*nodes: tuple[str, Any], **schemas: Any) -> StateGraph[Any]:
    """A graph of nodes in a row."""
    return StateGraph(Steps, **schemas).add_sequence(list(nodes)).add_edge(START, nodes[0][0])


def tried() -> int:
    tries[current_context().task_id] += 1
    return tries[current_context().task_id]


async def fail_twice(state: Steps) -> Steps:
    if (times := tried()) < 3:
        raise ConnectionError("not yet")
    return {"done": [times]}


async def fail(state: Steps) -> Steps:
    raise ConnectionError(f"try {tried()}")


async def hang_once(state: Steps) -> Steps:
    if (times := tried()) < 2:
        await asyncio.Event().wait()
    return {"done": [times]}


async def hang(state: Steps) -> None:
    await asyncio.Event().wait()


def tolerant(node: Any, max_attempts: int, **options: Any) -> StateGraph[Any]:
    policy = RetryPolicy(max_attempts=max_attempts, initial_interval=0.01)
    return StateGraph(Steps).add_node("node", node, retry_policy=policy, **options).add_edge(START, "node")


agent("fails_twice", retries=0)(tolerant(fail_twice, 3))
agent("fails", retries=1)(tolerant(fail, 2))
agent("hangs_once", retries=0)(tolerant(hang_once, 2, timeout=0.2))
agent("hangs", retries=0)(tolerant(hang, 1, timeout=0.2))


def share_out(state: Steps) -> list[Send]:
    return [Send("square", {"item": item}) for item in range(4)]


@agent("maps")
def maps() -> StateGraph[Any]:
    graph = StateGraph(Steps)
    graph.add_node("square", lambda state: {"done": [state["item"] ** 2]})
    graph.add_node("reduce", lambda state: {"done": [sum(state["done"])]})
    graph.add_conditional_edges(START, share_out, ["square"])
    return graph.add_edge("square", "reduce")


@agent("defers")
def defers() -> StateGraph[Any]:
    """Two branches of different length, after which a node runs: twice, if it were not deferred."""
    graph = StateGraph(Steps)
    for name in ("short", "long", "longer", "last"):
        graph.add_node(name, lambda state, name=name: {"done": [name]}, defer=name == "last")
    for before, after in ((START, "short"), (START, "long"), ("long", "longer"), ("short", "last"), ("longer", "last")):
        graph.add_edge(before, after)
    return graph


async def wait(state: Steps) -> Steps:
    (HERE / f"{current_context().task_id}.waits").touch()
    await until_async(lambda: (HERE / f"{current_context().task_id}.go").exists(), "it may go on")
    return {"done": ["second"]}


agent("stays")(of_nodes(("first", lambda state: {"done": ["first"]}), ("wait", wait)))
agent("swells")(of_nodes(("enlarge", lambda state: {"done": ["x" * 300_000]})))
agent("has_own_saver")(
    of_nodes(
        ("first", lambda state: {"done": ["first"]}), ("count", lambda state: {"done": [len(own_saver.storage)]})
    ).compile(checkpointer=own_saver)
)
