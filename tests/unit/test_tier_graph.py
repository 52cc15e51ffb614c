"""A tier's graph: what LangGraph makes of it, and the shorter way in which it is run."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

import coordinator.graph
import distributor.graph
import worker.graph
from coordinator.state import CoordinatorState
from core.roles import Action
from core.step import Batch, Step
from core.tier_graph import TickContext, TickState, TierGraph
from distributor.state import DistributorState
from tests.builders import (
    CLIENT,
    COORDINATOR,
    DISTRIBUTOR,
    NOW,
    WORKER,
    a_batch,
    a_beat,
    a_task,
    message_to,
)
from worker.rules import WorkerState

Seen = list[tuple[str, Batch, Step]]


def _first(state: TickState, runtime: Runtime[TickContext[Seen]]) -> Command[Literal["second", "__end__"]]:
    runtime.context.memory.append(("first", runtime.context.batch, state["step"]))
    return Command(goto="second" if runtime.context.batch.events else "__end__")


def _second(state: TickState, runtime: Runtime[TickContext[Seen]]) -> None:
    runtime.context.memory.append(("second", runtime.context.batch, state["step"]))


def _graph() -> TierGraph:
    graph = StateGraph(TickState, context_schema=TickContext)
    graph.add_node("first", _first)
    graph.add_node("second", _second)
    graph.add_edge(START, "first")
    graph.add_edge("second", END)
    return TierGraph(graph.compile())


@pytest.mark.parametrize(("events", "nodes"), [((), ["first"]), (("x",), ["first", "second"])])
def test_a_run_visits_the_nodes_that_an_ordinary_run_of_its_graph_visits(
    events: tuple[str, ...], nodes: list[str]
) -> None:
    batch = Batch(now=NOW, mono_ms=0, events=events)
    tier = _graph()
    seen: Seen = []
    expected: Seen = []

    step = tier.run(seen, batch)
    tier.graph.invoke({"step": step}, context=TickContext(expected, batch))

    assert seen == expected
    assert [name for name, _, _ in seen] == nodes
    assert all(one is step for _, _, one in seen)


def test_an_error_of_a_node_is_the_error_of_the_run() -> None:
    nothing: Any = None

    with pytest.raises(AttributeError):
        _graph().run(nothing, Batch(now=NOW, mono_ms=0))


def _coordinator() -> CoordinatorState:
    return CoordinatorState("coordinator-1")


def _distributor() -> DistributorState:
    return DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=1)


def _worker() -> WorkerState:
    return WorkerState("worker-1", distributor=DISTRIBUTOR)


TIERS = [
    pytest.param(
        coordinator.graph.build(), _coordinator(),
        a_batch(
            message_to(COORDINATOR)(CLIENT, Action.SUBMIT_TASK, [a_task()]),
            beats=[a_beat(DISTRIBUTOR, COORDINATOR, capacity=9)],
        ),
        id="coordinator",
    ),
    pytest.param(
        distributor.graph.build(), _distributor(),
        a_batch(
            message_to(DISTRIBUTOR)(COORDINATOR, Action.ASSIGN_TASK, [a_task(root_id="t")]), beats=[a_beat(WORKER)]
        ),
        id="distributor",
    ),
    pytest.param(
        worker.graph.build(), _worker(),
        a_batch(message_to(WORKER)(DISTRIBUTOR, Action.ASSIGN_TASK, [a_task(attempt=1)])),
        id="worker",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tier", "memory", "batch"), TIERS)
def test_the_graph_of_a_tier_is_invoked_like_any_other_and_takes_the_same_step(
    tier: TierGraph, memory: Any, batch: Batch
) -> None:
    ours, theirs = copy.deepcopy(memory), copy.deepcopy(memory)

    step = tier.run(ours, batch)
    taken = tier.graph.invoke({"step": Step()}, context=TickContext(theirs, batch))

    assert taken == {"step": step}
    assert step.commits or step.effects
    assert ours == theirs


@pytest.mark.parametrize(("tier", "memory", "batch"), TIERS)
def test_the_graph_of_a_tier_can_be_drawn(tier: TierGraph, memory: Any, batch: Batch) -> None:
    drawn = tier.graph.get_graph()

    assert {"__start__", "work", "__end__"} <= set(drawn.nodes)
    assert "__start__ --> work" in drawn.draw_mermaid()
