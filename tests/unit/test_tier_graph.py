"""A tier's graph: what LangGraph makes of it, and the shorter way in which it is run."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from langgraph.runtime import Runtime

import coordinator.graph
import coordinator.rules
import core.tier_graph
import distributor.graph
import worker.graph
from coordinator.state import CoordinatorState
from core.reports import AttemptReport
from core.roles import Action
from core.step import Batch, Drain, Step
from core.tier_graph import After, Stage, TickContext, TickState, TierGraph, built, first_run, stage, tier_graph
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
    sent,
)
from worker.rules import Outcome, WorkerState

Seen = list[tuple[str, Batch, Step]]

ROOT = Path(__file__).parents[2]


def _memorable(name: str, due: Callable[[Batch], bool] | None = None) -> Stage:
    """A stage that writes itself, and what it was given, into the memory."""

    def run(state: TickState, runtime: Runtime[TickContext[Seen]]) -> None:
        runtime.context.memory.append((name, runtime.context.batch, state["step"]))

    return Stage(name, run, due)


def _has_events(batch: Batch) -> bool:
    return bool(batch.events)


ALWAYS_THREE = [_memorable("a"), _memorable("b"), _memorable("c")]
ONE_NOT_DUE = [_memorable("a"), _memorable("b", _has_events), _memorable("c")]
TWO_NOT_DUE = [_memorable("a"), _memorable("b", _has_events), _memorable("c", _has_events), _memorable("d")]
LAST_NOT_DUE = [_memorable("a"), _memorable("b", _has_events)]
DIFFERENTLY_DUE = [_memorable("a"), _memorable("b", _has_events), _memorable("c", lambda batch: True)]


@pytest.mark.parametrize(
    ("stages", "events", "visited"),
    [
        (ALWAYS_THREE, (), "abc"),
        (ONE_NOT_DUE, (), "ac"),
        (ONE_NOT_DUE, (Drain(),), "abc"),
        (TWO_NOT_DUE, (), "ad"),
        (TWO_NOT_DUE, (Drain(),), "abcd"),
        (LAST_NOT_DUE, (), "a"),
        (LAST_NOT_DUE, (Drain(),), "ab"),
        (DIFFERENTLY_DUE, (), "ac"),
        (DIFFERENTLY_DUE, (Drain(),), "abc"),
    ],
)
def test_a_run_visits_the_stages_that_are_due_in_order_as_an_ordinary_run_of_its_graph_does(
    stages: list[Stage], events: tuple[Drain, ...], visited: str
) -> None:
    batch = Batch(now=NOW, mono_ms=0, events=events)
    tier = tier_graph("letters", stages)
    seen: Seen = []
    expected: Seen = []

    step = tier.run(seen, batch)
    tier.graph.invoke({"step": step}, context=TickContext(expected, batch))

    assert seen == expected
    assert "".join(name for name, _, _ in seen) == visited
    assert all(given is step for _, _, given in seen)


@pytest.mark.parametrize(
    ("stages", "edges"),
    [
        (ALWAYS_THREE, "a-b b-c c-__end__"),
        (ONE_NOT_DUE, "a.b a.c b-c c-__end__"),
        (TWO_NOT_DUE, "a.b a.d b-c c-d d-__end__"),
        (LAST_NOT_DUE, "a.__end__ a.b b-__end__"),
    ],
)
def test_the_picture_shows_the_ways_that_runs_take_and_no_others(stages: list[Stage], edges: str) -> None:
    drawn = tier_graph("letters", stages).graph.get_graph().edges

    named = [f"{edge.source}{'.' if edge.conditional else '-'}{edge.target}" for edge in drawn]
    assert sorted(named) == sorted(["__start__-a", *edges.split()])


def test_an_error_of_a_node_is_the_error_of_the_run() -> None:
    nothing: Any = None

    with pytest.raises(AttributeError):
        tier_graph("letters", ALWAYS_THREE).run(nothing, Batch(now=NOW, mono_ms=0))


def test_a_tick_after_one_that_failed_is_run_like_any_other() -> None:
    tier, nothing = tier_graph("letters", ALWAYS_THREE), None
    batch, seen = Batch(now=NOW, mono_ms=0), Seen()

    with pytest.raises(AttributeError):
        tier.run(nothing, batch)
    tier.run(seen, batch)

    assert "".join(name for name, _, _ in seen) == "abc"


def test_ticks_go_on_where_a_run_of_langgraph_has_come_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.tier_graph, "TICKS_A_RUN", 3)
    tier, seen = tier_graph("letters", ALWAYS_THREE), Seen()

    steps = [tier.run(seen, Batch(now=NOW, mono_ms=tick)) for tick in range(10)]

    assert [(name, batch.mono_ms) for name, batch, _ in seen] == [(name, tick) for tick in range(10) for name in "abc"]
    assert all(step is steps[batch.mono_ms] for _, batch, step in seen)


def test_a_limit_that_users_set_for_their_graphs_ends_no_run_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What LANGGRAPH_DEFAULT_RECURSION_LIMIT says, LangGraph reads when it is imported."""
    monkeypatch.setattr("langgraph._internal._config.DEFAULT_RECURSION_LIMIT", 3)
    tier, seen = tier_graph("letters", ALWAYS_THREE), Seen()

    for tick in range(10):
        tier.run(seen, Batch(now=NOW, mono_ms=tick))

    assert len(seen) == 10 * len(ALWAYS_THREE)


def test_a_graph_at_rest_keeps_nothing_of_what_it_was_given() -> None:
    class Memory(list[tuple[str, Batch, Step]]): ...

    tier, memory = tier_graph("letters", [Stage("nothing", lambda state, runtime: None)]), Memory()
    kept = weakref.ref(memory)

    tier.run(memory, Batch(now=NOW, mono_ms=0))
    del memory
    gc.collect()

    assert kept() is None


def test_agents_in_several_threads_take_their_ticks_at_the_same_time() -> None:
    meeting = Barrier(2)

    def meet(state: TickState, runtime: Runtime[TickContext[None]]) -> None:
        meeting.wait(60)

    tier = tier_graph("letters", [Stage("meet", meet)])

    with ThreadPoolExecutor(2) as threads:
        steps = [threads.submit(tier.run, None, Batch(now=NOW, mono_ms=0)) for _ in range(2)]

    assert all(isinstance(step.result(), Step) for step in steps)


def test_a_program_ends_in_silence_while_its_agents_wait_for_their_next_tick() -> None:
    program = (
        "from datetime import datetime, UTC; import worker.graph; from worker.rules import WorkerState;"
        "from core.step import Batch; from tests.builders import DISTRIBUTOR;"
        "memory = WorkerState('worker-1', distributor=DISTRIBUTOR);"
        "worker.graph.build().run(memory, Batch(now=datetime.now(UTC), mono_ms=0))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout + ended.stderr == ""


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
        a_batch(
            message_to(WORKER)(DISTRIBUTOR, Action.ASSIGN_TASK, [a_task(attempt=1)]),
            events=[Outcome(AttemptReport(task_id="t", attempt=1, status="completed"))],
        ),
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
    assert step.commits
    assert ours == theirs


@pytest.mark.parametrize(("tier", "memory", "batch"), TIERS)
def test_the_graph_of_a_tier_can_be_drawn(tier: TierGraph, memory: Any, batch: Batch) -> None:
    drawn = tier.graph.get_graph()

    assert tier.graph.builder.context_schema is TickContext
    assert {"__start__", "receive", "__end__"} <= set(drawn.nodes)
    assert "__start__ --> receive" in drawn.draw_mermaid()


def test_each_node_of_a_tier_does_what_its_name_says() -> None:
    """What `receive` takes in waits; `survey` hears who has room and gives it nothing; `dispatch` hands it out."""
    memory, step = _coordinator(), Step()
    batch = a_batch(
        message_to(COORDINATOR)(CLIENT, Action.SUBMIT_TASK, [a_task()]),
        beats=[a_beat(DISTRIBUTOR, COORDINATOR, capacity=9)],
    )

    coordinator.rules.receive(memory, batch, step)
    assert "t" in memory.queue
    assert not memory.distributors
    coordinator.rules.survey(memory, batch, step)
    assert "t" in memory.queue
    assert memory.distributors["distributor-1"].free == 9
    coordinator.rules.dispatch(memory, batch, step)
    assert "t" not in memory.queue
    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == 1


def test_a_stage_is_named_after_its_rule_which_is_given_memory_batch_and_step() -> None:
    def remember(memory: Seen, batch: Batch, step: Step) -> None:
        memory.append(("remember", batch, step))

    batch, seen = Batch(now=NOW, mono_ms=0), Seen()
    made = stage(remember, _has_events)

    step = tier_graph("letters", [stage(remember)]).run(seen, batch)

    assert (made.name, made.due, stage(remember).due) == ("remember", _has_events, None)
    assert seen == [("remember", batch, step)]


def test_all_agents_of_a_tier_share_one_graph_unless_a_program_adds_nodes() -> None:
    stages = tuple(ALWAYS_THREE)

    common = built("letters", stages)

    assert built("letters", stages) is common
    assert common.graph.name == "letters"
    changed = built("letters", stages, [After("a", lambda state, runtime: None)])
    assert changed is not common
    assert changed.graph.name == "letters"


def test_the_first_run_of_a_process_does_nothing() -> None:
    first_run()
