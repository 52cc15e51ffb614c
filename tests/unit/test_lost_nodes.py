"""What a run would miss that goes on with a graph which was changed."""

from __future__ import annotations

from collections.abc import Callable
from operator import add
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

from worker.hosts.graph_shape import TRIGGERS, unnamed_triggers
from worker.hosts.lost_nodes import lost_nodes

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    a: Annotated[int, add]


def one(state: State) -> State:
    return {"a": 1}


def asks(state: State) -> State:
    return {"a": interrupt("?")}


def row(*names: str, **nodes: Any) -> StateGraph[Any]:
    """The nodes in a row, each `one` unless it is given."""
    return StateGraph(State).add_sequence([(name, nodes.get(name, one)) for name in names]).add_edge(START, names[0])


def sending(*names: str) -> StateGraph[Any]:
    """Its first node sends to the last one."""
    builder = row(*names[:-1]).add_node(names[-1], one)
    sends = [Send(names[-1], {}), Send(names[-1], {})]
    return builder.add_conditional_edges(names[0], lambda _: sends, [names[-1]])


def joining(*names: str) -> StateGraph[Any]:
    """Its last node follows two that run side by side."""
    builder = row(names[0]).add_node("beside", one).add_edge(START, "beside")
    return builder.add_node(names[-1], one).add_edge([names[0], "beside"], names[-1])


async def lost(before: StateGraph[Any], after: StateGraph[Any], saver: InMemorySaver) -> list[str]:
    """What a run misses that has begun with the one graph and goes on with the other."""
    written_down: Any = {TRIGGERS: unnamed_triggers(before.compile())}

    async def newest(namespace: str) -> CheckpointTuple | None:
        found = saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": namespace}})
        return found and found._replace(metadata=found.metadata | written_down)

    found = await newest("")
    assert found is not None
    return await lost_nodes(after.compile(), found, newest)


@pytest.mark.parametrize("made", [row, sending, joining])
async def test_what_would_run_next_is_missed_when_it_is_gone(made: Callable[..., StateGraph[Any]]) -> None:
    before, saver = made("x", "y"), InMemorySaver()
    before.compile(saver).invoke({"a": 0}, CONFIG, interrupt_before=["y"])
    assert await lost(before, before, saver) == []
    assert await lost(before, row("x"), saver) == ["y"]


async def test_a_node_that_waits_for_others_is_not_missed_yet() -> None:
    saver, before = InMemorySaver(), row("x", "w").add_node("z", one).add_edge(["x", "w"], "z")
    before.compile(saver).invoke({"a": 0}, CONFIG, interrupt_before=["w"])
    assert await lost(before, row("x", "w"), saver) == []


async def test_what_another_graph_has_left_in_the_thread_is_not_missed() -> None:
    saver = InMemorySaver()
    row("x", "y").compile(saver).invoke({"a": 0}, CONFIG, interrupt_before=["y"])
    before = row("v", "w")
    before.compile(saver).invoke({"a": 0}, CONFIG, interrupt_before=["w"])
    assert await lost(before, row("v", "w", "u"), saver) == []
    assert await lost(before, row("v"), saver) == ["w"]


def as_a_node(below: StateGraph[Any]) -> StateGraph[Any]:
    return row("n", n=below.compile())


def with_a_memory(below: StateGraph[Any]) -> StateGraph[Any]:
    return row("n", n=below.compile(checkpointer=True))


def in_a_function(below: StateGraph[Any]) -> StateGraph[Any]:
    compiled = below.compile()

    def calls(state: State) -> Any:
        return compiled.invoke({"a": 0})

    return row("n", n=calls)


def after_another(below: StateGraph[Any]) -> StateGraph[Any]:
    first, second = row("other").compile(), below.compile()

    def calls(state: State) -> Any:
        first.invoke({"a": 0})
        return second.invoke({"a": 0})

    return row("n", n=calls)


def further_below(below: StateGraph[Any]) -> StateGraph[Any]:
    return row("n", n=as_a_node(below).compile())


def beside_one_that_has_ended(below: StateGraph[Any]) -> StateGraph[Any]:
    return as_a_node(below).add_node("m", row("other").compile()).add_edge(START, "m")


@pytest.mark.parametrize(
    ("within", "name"),
    [
        (as_a_node, "n|y"),
        (with_a_memory, "n|y"),
        (in_a_function, "n|y"),
        (after_another, "n|y"),
        (further_below, "n|n|y"),
        (beside_one_that_has_ended, "n|y"),
    ],
)
async def test_a_node_of_a_graph_below_is_missed_when_it_is_gone(
    within: Callable[[StateGraph[Any]], StateGraph[Any]], name: str
) -> None:
    saver = InMemorySaver()
    before = within(row("x", "y", y=asks))
    before.compile(saver).invoke({"a": 0}, CONFIG)
    assert await lost(before, before, saver) == []
    assert await lost(before, within(row("x", "z", "y")), saver) == []
    assert await lost(before, within(row("x", "z")), saver) == [name]
    assert await lost(before, row("n"), saver) == []  # it is no graph any more, and begins as what it is now
    assert await lost(before, row("m"), saver) == ["n"]
