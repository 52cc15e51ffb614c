"""When a graph is another one than a run has begun with."""

from __future__ import annotations

from collections.abc import Callable
from operator import add
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph

from worker.hosts.graph_shape import shape_digest


class State(TypedDict, total=False):
    a: Annotated[int, add]


class Wider(State, total=False):
    b: int


def one(state: State) -> State:
    return {"a": 1}


def another(state: State) -> State:
    return {"a": 2}


def choose(state: State) -> str:
    return END


def graph(
    *edges: tuple[Any, str],
    schema: type[Any] = State,
    x: Any = one,
    change: Callable[[StateGraph[Any]], object] = lambda builder: None,
) -> Any:
    builder: StateGraph[Any] = StateGraph(schema)
    for name in sorted({name for _, name in edges} - {END}):
        builder.add_node(name, x if name == "x" else one)
    for start, end in edges:
        builder.add_edge(start, end)
    change(builder)
    return builder.compile(checkpointer=InMemorySaver())


ROW = ((START, "x"), ("x", "y"))


def test_a_graph_that_is_made_anew_is_the_same_also_with_other_code() -> None:
    assert shape_digest(graph(*ROW)) == shape_digest(graph(*ROW)) == shape_digest(graph(*ROW, x=another))
    assert shape_digest(graph(*ROW, x=graph(*ROW))) == shape_digest(graph(*ROW, x=graph(*ROW)))


@pytest.mark.parametrize(
    "changed",
    [
        lambda: graph(*ROW, ("y", "z")),
        lambda: graph((START, "x"), (START, "y")),
        lambda: graph(*ROW, schema=Wider),
        lambda: graph(*ROW, change=lambda builder: builder.add_conditional_edges("x", choose, ["y", END])),
        lambda: graph(*ROW, change=lambda builder: builder.add_edge(["x", "y"], END)),
        lambda: graph(*ROW, x=graph(*ROW)),
        lambda: graph(*ROW, x=graph(*ROW, ("y", "z"))),
    ],
    ids=["node", "edge", "channel", "branch", "waiting edge", "subgraph", "node of a subgraph"],
)
def test_a_graph_with_another_shape_is_another_one(changed: Callable[[], Any]) -> None:
    before = (graph(*ROW), graph(*ROW, x=graph((START, "x"))))
    assert len({*map(shape_digest, before), shape_digest(changed())}) == 3


def test_functional_graphs_have_a_shape_and_others_none() -> None:
    @entrypoint()
    def adds(number: int) -> int:
        return number + 1

    assert len(shape_digest(adds)) == 16
    assert shape_digest(adds | (lambda number: number)) == ""
