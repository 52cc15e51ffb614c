"""What is read from a checkpoint alone is what LangGraph says with the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from core.checkpoints.snapshots import TRIGGERS, Snapshot, snapshot_of
from worker.hosts.graph_shape import unnamed_triggers


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]
    stop: bool


def step(name: str) -> Any:
    def node(state: State) -> State:
        return {"done": [name]}

    return node


def asking(name: str) -> Any:
    def node(state: State) -> State:
        return {"done": [name, interrupt({"by": name}), interrupt("again")]}

    return node


def failing(state: State) -> State:
    raise ValueError("no such thing")


def chain() -> Any:
    graph = StateGraph(State).add_node("a", step("a")).add_node("b", asking("b")).add_node("c", step("c"))
    return graph.add_edge(START, "a").add_edge("a", "b").add_edge("b", "c")


def fork_and_join() -> Any:
    graph = StateGraph(State).add_node("a", step("a")).add_node("b", asking("b")).add_node("c", step("c"))
    graph.add_node("d", asking("d"), defer=True).add_node("e", step("e"))
    graph.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c").add_edge(["b", "c"], "e").add_edge("a", "e")
    return graph.add_edge("c", "d")


def sends() -> Any:
    graph = StateGraph(State).add_node("a", step("a")).add_node("each", asking("each"))
    graph.add_conditional_edges("a", lambda _: [Send("each", {"done": ["x"]}), Send("each", {})], ["each"])
    return graph.add_edge(START, "a")


def within() -> Any:
    inner = StateGraph(State).add_node("inner", asking("inner")).add_node("more", step("more"))
    inner.add_edge(START, "inner").add_edge(["inner"], "more")
    graph = StateGraph(State).add_node("a", step("a")).add_node("sub", inner.compile())
    return graph.add_edge(START, "a").add_edge("a", "sub")


def fails() -> Any:
    graph = StateGraph(State).add_node("a", step("a")).add_node("b", failing).add_node("c", step("c"))
    return graph.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c")


def commanded() -> Any:
    def leads(state: State) -> Command[Any]:
        return Command(goto=["b", Send("c", {})], update={"done": ["leads"]})

    graph = StateGraph(State).add_node("a", leads, destinations=("b", "c")).add_node("b", asking("b"))
    return graph.add_node("c", asking("c")).add_edge(START, "a")


def whole() -> Any:
    state: Any = Annotated[list[str], operator.add]
    return StateGraph(state).add_node("a", lambda _: ["a"]).add_edge(START, "a")


def function() -> Any:
    @task
    def part(x: int) -> int:
        return x + 1

    @entrypoint(checkpointer=InMemorySaver())
    def steps(given: dict[str, Any]) -> dict[str, Any]:
        return {"done": [part(1).result(), interrupt("go on?"), interrupt("and on?")]}

    return steps


def stored(saver: InMemorySaver, graph: Any, place: Any) -> list[CheckpointTuple]:
    """The checkpoints, the newest first, each with what workers write down of the graph."""
    known: Any = {TRIGGERS: unnamed_triggers(graph)}
    return [found._replace(metadata=found.metadata | known) for found in saver.list(place)]


def told(snapshot: Snapshot | Any) -> dict[str, Any]:
    tasks = sorted(snapshot.tasks, key=lambda one: one.id)
    return {
        "next": sorted(snapshot.next),
        "tasks": [(one.id, one.name, one.path[:2], one.interrupts, one.result or None) for one in tasks],
        "errors": ["no such thing" in f"{one.error}" for one in tasks],
        "interrupts": sorted(one.id for one in snapshot.interrupts),
    }


@pytest.mark.parametrize("make", [chain, fork_and_join, sends, within, fails, commanded, whole, function])
def test_a_checkpoint_says_what_the_graph_says(make: Callable[[], Any]) -> None:
    graph, saver = make(), InMemorySaver()
    if hasattr(graph, "compile"):
        graph = graph.compile(checkpointer=saver)
    else:
        graph.checkpointer = saver
    config: Any = {"configurable": {"thread_id": "t"}}
    place: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    given: Any = ["x"] if make is whole else {"done": ["x"]}
    for answer in (None, "yes", "no"):
        interrupts = graph.get_state(config).interrupts
        with suppress(ValueError):
            graph.invoke(Command(resume={each.id: answer for each in interrupts}) if interrupts else given, config)
        read = snapshot_of(stored(saver, graph, place)[0], is_newest=True)
        assert told(read) == told(graph.get_state(config))
        for one in read.tasks if make is within else ():
            inner: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": one.namespace}}
            for found in stored(saver, graph, inner)[:1]:
                assert told(snapshot_of(found, is_newest=True)) == told(graph.get_state(inner))
    read_history = [snapshot_of(found, is_newest=False) for found in stored(saver, graph, place)]
    history = list(graph.get_state_history(config))
    assert [told(snapshot) for snapshot in read_history] == [told(snapshot) for snapshot in history]
    for read, snapshot in zip(read_history, history, strict=True):
        assert without_nothing(read.values) == without_nothing(snapshot.values)


def without_nothing(values: Any) -> Any:
    """The values, without channels that are empty from the beginning, which LangGraph adds from the graph."""
    return {name: value for name, value in values.items() if value} if isinstance(values, dict) else values or {}


def test_what_another_graph_has_left_in_a_thread_does_not_run_next() -> None:
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "t"}}
    chain().compile(checkpointer=saver).invoke({"done": []}, config)
    other = StateGraph(State).add_node("x", step("x")).add_edge(START, "x").compile(checkpointer=saver)
    other.invoke({"done": []}, config)

    found = saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})

    assert found is not None
    left = found._replace(checkpoint={**found.checkpoint, "channel_values": {"branch:to:b": None}})
    assert snapshot_of(left, is_newest=True).next == other.get_state(config).next == ()
