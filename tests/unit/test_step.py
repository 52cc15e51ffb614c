"""A tier's graph, entered at its first node."""

from __future__ import annotations

from typing import Literal

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from core.step import Batch, Thought, Turn
from tests.builders import NOW


def _first(state: Turn) -> Command[Literal["second", "__end__"]]:
    state["state"].append(("first", state["batch"], state["step"]))
    return Command(goto="second" if state["batch"].events else "__end__")


def _second(state: Turn) -> None:
    state["state"].append(("second", state["batch"], state["step"]))


def _graph() -> StateGraph[Turn, None, Turn, Turn]:
    graph = StateGraph(Turn)
    graph.add_node("first", _first)
    graph.add_node("second", _second)
    graph.add_edge(START, "first")
    graph.add_edge("second", END)
    return graph


@pytest.mark.parametrize(("events", "nodes"), [((), ["first"]), (("x",), ["first", "second"])])
def test_a_thought_runs_the_nodes_that_an_ordinary_run_of_its_graph_runs(
    events: tuple[str, ...], nodes: list[str]
) -> None:
    batch = Batch(now=NOW, mono_ms=0, events=events)
    thought, ordinary = Thought(_graph().compile(), "first"), _graph().compile()
    seen: list[tuple[str, object, object]] = []
    expected: list[tuple[str, object, object]] = []

    step = thought.run(seen, batch)
    ordinary.invoke({"state": expected, "batch": batch, "step": step})

    assert seen == expected
    assert [name for name, _, _ in seen] == nodes
    assert all(one is step for _, _, one in seen)
