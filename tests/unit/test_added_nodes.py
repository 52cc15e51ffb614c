"""Nodes that a program puts into the graph of its coordinator or distributor, by the sample of the documentation."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import coordinator.graph
import distributor.graph
from coordinator.state import CoordinatorState
from core.errors import ConfigError
from core.roles import Action, Address, Role
from core.step import Step
from core.tier_graph import After, Before, TickContext, TickState
from distributor.state import DistributorState
from tests.builders import COORDINATOR, DISTRIBUTOR, WORKER, a_batch, a_beat, a_task, sent
from tests.coordinator_steps import alive, refusals, submitted
from tests.distributor_steps import WORKER_2, assigned, handed
from tests.pages import sample_of

GPUS = Address(Role.DISTRIBUTOR, "distributor-gpu")


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    """The functions of the sample."""
    text = sample_of("docs/library.md", "A policy of your own")
    names: dict[str, Any] = {}
    exec(text.split("coordinator = ")[0], names)
    return names


def nothing(state: TickState, runtime: Any) -> None:
    pass


def idle(state: TickState, runtime: Any) -> None:
    pass


def test_a_node_before_receive_refuses_new_tasks_and_its_reason_is_told(sample: dict[str, Any]) -> None:
    graph = coordinator.graph.build([Before("receive", sample["two_videos_at_once"])])
    memory = CoordinatorState("coordinator-1")

    videos = [a_task(f"v{number}", task_type="video") for number in range(3)]
    step = graph.run(memory, a_batch(submitted(*videos, a_task("s"))))

    assert list(memory.local_tasks) == ["v0", "v1", "s"]
    assert refusals(step) == [
        {"task_id": "v2", "reason": "two videos are open; submit it again when one has ended"}
    ]  # fmt: skip


def test_what_is_known_already_is_not_refused(sample: dict[str, Any]) -> None:
    """Who submits again has not heard that it was accepted."""
    graph = coordinator.graph.build([Before("receive", sample["two_videos_at_once"])])
    memory = CoordinatorState("coordinator-1")
    videos = [a_task(f"v{number}", task_type="video") for number in range(2)]
    graph.run(memory, a_batch(submitted(*videos)))

    again = graph.run(memory, a_batch(submitted(*videos)))

    assert refusals(again) == []


def test_a_node_before_dispatch_places_tasks_and_the_rest_is_handed_out_as_ever(sample: dict[str, Any]) -> None:
    graph = coordinator.graph.build([Before("dispatch", sample["videos_to_the_gpus"])])
    memory = CoordinatorState("coordinator-1")
    skills = ["task:video", "task:sum"]
    graph.run(
        memory,
        a_batch(beats=[alive(DISTRIBUTOR, capabilities=skills), alive(GPUS, capabilities=skills[:1], capacity=2)]),
    )

    step = graph.run(memory, a_batch(submitted(*(a_task(f"v{number}", task_type="video") for number in range(3)))))

    assert [item["task_id"] for item in sent(step, GPUS, Action.ASSIGN_TASK)] == ["v0", "v1"]
    assert [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)] == ["v2"]


def test_a_node_of_a_distributor_places_tasks_with_workers() -> None:
    def all_to_the_second(state: TickState, runtime: Any) -> None:
        memory: DistributorState = runtime.context.memory
        for task_id in list(memory.queue.waiting):
            state["step"].place(task_id, "worker-2")
        state["step"].place("unknown", "worker-2")

    graph = distributor.graph.build([Before("dispatch", all_to_the_second)])
    memory = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=1)
    graph.run(memory, a_batch(beats=[a_beat(WORKER), a_beat(WORKER_2)]))

    step = graph.run(memory, a_batch(assigned(a_task("a"), a_task("b"))))

    assert handed(step, WORKER) == []
    assert handed(step, WORKER_2) == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("anchor", ["receive", "survey", "dispatch"])
@pytest.mark.parametrize("due", [False, True])
def test_an_added_node_runs_beside_its_anchor_whenever_that_does(anchor: str, due: bool) -> None:
    seen = []

    def first(state: TickState, runtime: Any) -> None:
        seen.append("first")

    def second(state: TickState, runtime: Any) -> None:
        seen.append("second")

    def last(state: TickState, runtime: Any) -> None:
        seen.append("last")

    tier = coordinator.graph.build([After(anchor, last), Before(anchor, first), Before(anchor, second)])
    batch = a_batch(beats=[alive(DISTRIBUTOR)]) if due else a_batch(submitted(a_task()))
    runs = anchor != "survey" or due

    tier.run(CoordinatorState("coordinator-1"), batch)
    tier.graph.invoke({"step": Step()}, context=TickContext(CoordinatorState("coordinator-1"), batch))

    assert seen == ["first", "second", "last"] * 2 * runs
    edges = {(edge.source, edge.target) for edge in tier.graph.get_graph().edges}
    assert {("first", "second"), ("second", anchor), (anchor, "last")} <= edges


def test_a_node_that_raises_costs_its_own_decision_only() -> None:
    def broken(state: TickState, runtime: Any) -> None:
        raise KeyError("tenant")

    memory = CoordinatorState("coordinator-1")

    step = coordinator.graph.build([Before("receive", broken)]).run(memory, a_batch(submitted(a_task())))

    assert "t" in memory.local_tasks
    assert step.notes == [("node_failed", {"node": "broken", "error": "KeyError: 'tenant'"})]


async def waits(state: TickState, runtime: Any) -> None:
    pass


class Waits:
    async def __call__(self, state: TickState, runtime: Any) -> None:
        pass


A_COROUTINE: Any = waits
A_COROUTINE_OF_A_CLASS: Any = Waits()

WRONG: list[tuple[list[Any], str]] = [
    ([Before("dispach", nothing)], "no node 'dispach' here: name one of receive, survey, dispatch"),
    ([Before("recieve", nothing), Before("dispach", nothing)], "no node 'dispach', 'recieve' here: name one of"),
    ([Before("receive", nothing), After("dispatch", nothing)], "two nodes are called nothing"),
    ([Before("receive", node) for node in (nothing, idle, nothing, idle)], "two nodes are called idle, nothing: give"),
    ([Before("receive", A_COROUTINE)], "waits is a coroutine function"),
    ([Before("receive", partial(A_COROUTINE))], "partial is a coroutine function"),
    ([Before("receive", A_COROUTINE_OF_A_CLASS)], "Waits is a coroutine function"),
]


@pytest.mark.parametrize(("nodes", "said"), WRONG)
def test_a_node_that_cannot_be_where_it_is_meant_to_be_is_an_error_that_names_the_cure(
    nodes: list[Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        distributor.graph.build(nodes)
