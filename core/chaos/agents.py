"""The graphs of the load, which record each node that they begin. Their nodes run one after the other.

chaos.steps   three nodes that wait
chaos.asks    a node, one that asks a person, and another
chaos.leads   a node, one that delegates to one of each of the others, and another

The final state has in `nodes` each node that has run, with its execution; in `answers` what the person has said; in
`parts` the results of what was delegated. `core.chaos.agent_judge` knows what they have to be.
"""

from __future__ import annotations

import asyncio
import operator
import os
import time
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from core.chaos.work import RETRIES, ledger
from core.tasks import Task
from worker import agent, current_context, delegate

__all__ = ["asks", "leads", "steps"]


class State(TypedDict, total=False):
    number: int
    ms: int  #: how long a node waits
    nodes: Annotated[list[list[str]], operator.add]
    answers: Annotated[list[str], operator.add]
    parts: Annotated[list[Any], operator.add]


def begun(node: str) -> list[list[str]]:
    """Records that a node begins. Returns what it adds to `nodes`."""
    context, execution = current_context(), f"{os.getpid()}.{time.monotonic_ns()}"
    ledger().note("node", context.task_id, attempt=context.attempt, node=node, execution=execution)
    return [[node, execution]]


def waits(name: str) -> Callable[[State], Any]:
    async def node(state: State) -> State:
        nodes = begun(name)
        await asyncio.sleep(state["ms"] / 1000)
        return {"nodes": nodes}

    node.__name__ = name
    return node


def ask(state: State) -> State:
    nodes = begun("ask")
    return {"nodes": nodes, "answers": [interrupt({"number": state["number"]})]}


async def lead(state: State) -> State:
    nodes, payload = begun("lead"), {"number": state["number"], "ms": state["ms"]}
    tasks = [Task(task_type=task_type, payload=payload) for task_type in ("chaos.steps", "chaos.asks")]
    return {"nodes": nodes, "parts": await delegate.aio(*tasks)}


def in_a_row(*nodes: Callable[..., Any]) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_sequence([(node.__name__, node) for node in nodes])
    graph.add_edge(START, nodes[0].__name__)
    return graph


steps = agent("chaos.steps", timeout=60, retries=RETRIES)(in_a_row(waits("one"), waits("two"), waits("three")))
asks = agent("chaos.asks", timeout=60, retries=RETRIES)(in_a_row(waits("draft"), ask, waits("send")))
leads = agent("chaos.leads", timeout=60, retries=RETRIES)(in_a_row(waits("plan"), lead, waits("write")))
