"""The context that a handler gets: what it can ask and say while it runs."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import BadTask, TaskFailed
from core.tasks import Task, TaskError, TaskStatus
from worker.authoring.context import ChildOutcome, Context, Progress, Spawn, current_context, running_context


def outcome(child: str, status: TaskStatus = TaskStatus.COMPLETED, result: Any = None) -> ChildOutcome:
    error = None if status is TaskStatus.COMPLETED else TaskError(type="ValueError", message="bad")
    return ChildOutcome(child, "part", status, result, error)


def test_spawned_children_without_an_id_are_named_after_their_parent() -> None:
    spawn = Context("job").spawn(
        [Task(task_type="part"), Task(task_type="part", task_id="own"), Task(task_type="part")],
        then="merge",
        payload=[1],
    )

    assert isinstance(spawn, Spawn)
    assert [child.task_id for child in spawn.children] == ["job/0", "own", "job/2"]
    assert (spawn.then.task_type, spawn.then.payload) == ("merge", [1])


@pytest.mark.parametrize(
    ("children", "problem"),
    [
        ([], "at least one child"),
        ([{"task_type": "part"}], "got a dict as child 0"),
        ([Task(task_type="part", task_id="a"), Task(task_type="part", task_id="a")], "two children with the id 'a'"),
    ],
)
def test_children_that_cannot_run_are_refused(children: list[Any], problem: str) -> None:
    with pytest.raises(BadTask, match=problem):
        Context("job").spawn(children)


def test_a_child_whose_id_would_be_too_long_is_refused() -> None:
    with pytest.raises(BadTask, match="over 200 characters"):
        Context("j" * 199).spawn([Task(task_type="part")])


def test_results_are_those_of_the_children_in_order() -> None:
    assert Context("job", children=[outcome("a", result=1), outcome("b", result=2)]).results() == [1, 2]


def test_results_raise_for_the_first_child_that_failed() -> None:
    children = [outcome("a", result=1), outcome("b", TaskStatus.FAILED), outcome("c", TaskStatus.CANCELLED)]

    with pytest.raises(TaskFailed, match="'b' ended as failed: ValueError: bad"):
        Context("job", children=children).results()


def test_progress_reaches_whoever_listens() -> None:
    heard: list[Progress] = []

    Context("job", attempt=2, on_progress=heard.append).progress(0.5, "half", files=3)

    assert heard == [Progress("job", 2, 0.5, "half", {"files": 3})]


def test_progress_is_what_it_was_when_it_was_reported() -> None:
    heard: list[Progress] = []
    seen: dict[str, Any] = {"files": []}

    Context("job", on_progress=heard.append).progress(note="so far", seen=seen)
    seen["files"].append(object())

    assert (heard[0].note, heard[0].data) == ("so far", {"seen": {"files": []}})


@pytest.mark.parametrize("fraction", [-0.1, 50, float("nan")])
def test_progress_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(BadTask, match="divide what is done by the total"):
        Context("job").progress(fraction)


def test_progress_that_overshoots_by_rounding_counts_as_done() -> None:
    heard: list[Progress] = []
    Context("job", on_progress=heard.append).progress(1.00001)

    assert heard[0].fraction == 1.0


def test_progress_too_large_is_refused() -> None:
    with pytest.raises(BadTask, match="over 4096"):
        Context("job").progress(note="x" * 5000)


def test_cancelled_stays_true_once_it_was() -> None:
    answers = iter([False, True])
    context = Context("job", asks_cancelled=lambda: next(answers))

    assert [context.cancelled, context.cancelled, context.cancelled] == [False, True, True]


def test_the_idempotency_key_is_the_task_id_unless_given() -> None:
    assert Context("job").idempotency_key == "job"
    assert Context("job", idempotency_key="order-7").idempotency_key == "order-7"


def test_the_current_context_is_there_while_a_task_runs_only() -> None:
    with pytest.raises(BadTask, match="works only while a task runs"):
        current_context()

    context = Context("job")
    token = running_context.set(context)
    try:
        assert current_context() is context
    finally:
        running_context.reset(token)
