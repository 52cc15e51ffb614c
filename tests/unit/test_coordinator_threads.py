"""What a coordinator decides about runs of one thread: they stand in line, are refused, or replace each other."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.rules import recall
from coordinator.state import CoordinatorState
from coordinator.threads import MAX_IN_LINE
from core.agent_run import RunOptions
from core.roles import Action
from core.step import Step, Table
from core.tasks import Task
from tests.builders import CLIENT, DISTRIBUTOR, NOW, a_task, sent
from tests.coordinator_steps import CLIENT_2, a_coordinator, refusals, result, submitted, take, to_me

NOW_MS = int(NOW.timestamp() * 1000)


def a_run(task_id: str, multitask: Any = "enqueue", thread: str = "T", **fields: Any) -> Task:
    return a_task(task_id, run=RunOptions(thread_id=thread, multitask=multitask), **fields)


def with_runs(*tasks: Task, **fields: Any) -> CoordinatorState:
    state = a_coordinator(DISTRIBUTOR, **fields)
    take(state, submitted(*tasks))
    return state


def handed(step: Step) -> list[str]:
    return [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)]


def cancelling(*task_ids: str) -> Any:
    return to_me(CLIENT, Action.CANCEL_TASK, list(task_ids))


def test_runs_of_one_thread_begin_one_after_the_other_and_those_of_others_beside_them() -> None:
    state = a_coordinator(DISTRIBUTOR)

    first = take(state, submitted(a_run("a"), a_run("b"), a_run("c"), a_run("x", thread="X"), a_task("alone")))
    second = take(state, result("a", "failed", error={"type": "E", "message": "m"}))
    third = take(state, result("b"))

    assert [handed(step) for step in (first, second, third)] == [["a", "x", "alone"], ["b"], ["c"]]
    assert state.threads == {"T": {"c": None}, "X": {"x": None}}


def test_each_run_has_a_higher_number_than_all_before_even_when_the_clock_is_set_back() -> None:
    state = with_runs(a_run("a"), a_run("b"), a_task("alone"))
    last = take(state, submitted(a_run("c", thread="X")), later_s=-60)

    orders = [state.local_tasks[name].thread_order for name in ("a", "b", "c", "alone")]
    assert orders == [NOW_MS, NOW_MS + 1, NOW_MS + 2, 0]
    assert last.writes[Table.HEADER, ""]["thread_order"] == b"%d" % (NOW_MS + 2)


def test_a_run_that_waits_for_an_answer_keeps_its_thread() -> None:
    state = with_runs(a_run("a"), a_run("b"))

    step = take(state, result("a", "suspended", waits=[{"id": "q"}]))
    answer = {"task_id": "a", "interrupt_id": "q", "value": 1}
    resumed = take(state, to_me(CLIENT, Action.ANSWER_QUESTION, [answer]))

    assert (handed(step), handed(resumed)) == ([], ["a"])


@pytest.mark.parametrize("multitask", ["enqueue", "reject", "interrupt", "rollback"])
def test_a_run_that_gives_up_questions_takes_the_place_of_one_that_asks(multitask: Any) -> None:
    state = with_runs(a_run("a"))
    asked = result("a", "suspended", waits=[{"id": "q"}])
    after = a_task("b", run=RunOptions(thread_id="T", multitask=multitask, gives_up_questions=True))

    take(state, asked)
    step = take(state, submitted(after))

    assert handed(step) == ["b"]
    assert step.changes["a"][-1] == "cancelled"
    assert state.local_tasks["b"].undoes == ()


def test_a_run_is_given_up_as_soon_as_it_asks_if_one_behind_it_gives_up_questions() -> None:
    state = with_runs(a_run("a"), a_run("b"), a_task("c", run=RunOptions(thread_id="T", gives_up_questions=True)))

    step = take(state, result("a", "suspended", waits=[{"id": "q"}]))

    assert handed(step) == ["b"]
    assert step.changes["a"][-1] == "cancelled"


def test_a_run_that_gives_up_questions_waits_for_one_that_runs_and_is_rejected_by_it() -> None:
    state = with_runs(a_run("a"))
    waits = a_task("b", run=RunOptions(thread_id="T", gives_up_questions=True))
    fails = a_task("c", run=RunOptions(thread_id="T", gives_up_questions=True, multitask="reject"))

    step = take(state, submitted(waits, fails))

    assert handed(step) == []
    assert [refused["task_id"] for refused in refusals(step)] == ["c"]


def test_a_run_that_comes_back_is_handed_out_again_before_those_behind_it() -> None:
    state = with_runs(a_run("a"), a_run("b"))

    step = take(state, result("a", "returned", stranded=True))

    assert handed(step) == ["a"]


def test_who_leaves_the_line_lets_the_next_one_up() -> None:
    state = with_runs(a_run("a"), a_run("b"), a_run("c"))
    take(state, cancelling("b"))
    assert state.local_tasks["c"].behind == "a"

    assert handed(take(state, result("a"))) == ["c"]
    assert state.local_tasks["c"].behind is None


def test_a_run_that_does_not_want_to_wait_is_refused_while_its_thread_is_busy() -> None:
    state = with_runs(a_run("a"))

    step = take(state, submitted(a_run("b", "reject")))
    take(state, result("a"))
    later = take(state, submitted(a_run("b", "reject")))

    [refusal] = refusals(step)
    assert refusal["reason"] == "thread 'T' is busy with 'a'; submit again when that has ended"
    assert handed(later) == ["b"]


@pytest.mark.parametrize(("multitask", "undoes"), [("interrupt", ()), ("rollback", ("a", "b"))])
def test_a_run_that_replaces_those_before_it_begins_when_they_have_ended(multitask: str, undoes: Any) -> None:
    state = with_runs(a_run("a"), a_run("b"))

    step = take(state, submitted(a_run("c", multitask)))
    begun = take(state, result("a", "cancelled"))

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["a"]
    assert [(item["task_id"], item["status"]) for item in sent(step, CLIENT, Action.TASK_RESULT)] == [
        ("b", "cancelled")
    ]
    assert handed(step) == []
    assert handed(begun) == ["c"]
    assert state.local_tasks["c"].undoes == undoes


def test_what_has_completed_after_all_is_not_undone() -> None:
    state = with_runs(a_run("a"))
    take(state, submitted(a_run("b", "rollback")))

    take(state, result("a"))

    assert state.local_tasks["b"].undoes == ()


def test_what_a_replaced_run_was_to_undo_is_undone_by_the_one_that_replaces_it() -> None:
    state = with_runs(a_run("a"))
    take(state, submitted(a_run("b", "rollback")))

    take(state, submitted(a_run("c", "interrupt")))

    assert state.local_tasks["c"].undoes == ("a",)


@pytest.mark.parametrize("multitask", ["enqueue", "interrupt"])
def test_nobody_joins_or_replaces_the_runs_of_others(multitask: str) -> None:
    state = with_runs(a_run("a"), a_run("s", thread="S", shared_with=["client-2"]))

    step = take(state, submitted(a_run("b", multitask), a_run("c", thread="S"), client=CLIENT_2))

    [refusal] = refusals(step, CLIENT_2)
    assert refusal["reason"] == "thread 'T' is in use by another client; choose another thread_id"
    assert list(state.local_tasks) == ["a", "s", "c"]


def test_a_line_has_a_bound() -> None:
    state = with_runs()
    for start in range(0, MAX_IN_LINE, 100):
        take(state, submitted(*(a_run(f"t{number}") for number in range(start, start + 100))))

    [refusal] = refusals(take(state, submitted(a_run("more"))))

    assert refusal["reason"] == "1000 runs stand in line for thread 'T', the most there may be"


def test_a_child_does_not_wait_for_the_thread_that_those_above_it_have() -> None:
    state = with_runs(a_run("a"))
    child = {"task_id": "a/0", "task_type": "x", "run": {"thread_id": "T"}}

    refused = take(state, result("a", "suspended", waits=[{"id": "d", "children": ["a/0"]}], children=[child]))
    failed = take(state, result("a", "delegated", children=[child], attempt=2))

    why = "thread 'T' is in use by 'a', which waits for this one; give it another thread_id"
    [item] = sent(refused, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert item["waits"][0]["refused"] == why
    assert sent(failed, CLIENT, Action.TASK_RESULT)[0]["error"]["message"] == f"spawn: {why}"


def test_the_thread_of_a_run_of_its_own_is_nobody_elses_while_it_is_open() -> None:
    state = with_runs(a_task("alone"), a_run("a"))

    [named] = refusals(take(state, submitted(a_run("b", thread="alone"))))
    [named_after] = refusals(take(state, submitted(a_task("T"))))
    take(state, result("alone"), result("a"))

    assert named["reason"].startswith("thread 'alone' is that of the task of this id, which is open;")
    assert named_after["reason"] == "thread 'T' is in use; choose another id for this task"
    assert handed(take(state, submitted(a_run("b", thread="alone"), a_task("T")))) == ["b", "T"]


def test_two_trees_do_not_wait_for_each_others_threads_for_ever() -> None:
    state = with_runs(a_run("p", thread="P"), a_run("q", thread="Q"))

    def delegating(task_id: str, thread_id: str) -> Step:
        child = {"task_id": f"{task_id}/0", "task_type": "x", "run": {"thread_id": thread_id}}
        waits = [{"id": "d", "children": [child["task_id"]]}]
        return take(state, result(task_id, "suspended", waits=waits, children=[child]))

    assert handed(delegating("p", "Q")) == []
    [item] = sent(delegating("q", "P"), DISTRIBUTOR, Action.ASSIGN_TASK)
    assert item["waits"][0]["refused"] == (
        "thread 'P' is in use by 'p', which waits for this one; give it another thread_id"
    )
    assert handed(take(state, result("q", attempt=2))) == ["p/0"]


def test_what_has_begun_is_undone_however_many_runs_replace_each_other() -> None:
    state = with_runs(a_run("a"))
    for start in range(0, MAX_IN_LINE + 100, 100):
        take(state, submitted(*(a_run(f"t{number}", "rollback") for number in range(start, start + 100))))

    assert handed(take(state, result("a", "cancelled"))) == [f"t{MAX_IN_LINE + 99}"]
    undoes = state.local_tasks[f"t{MAX_IN_LINE + 99}"].undoes
    assert (undoes[0], len(undoes)) == ("a", MAX_IN_LINE)


def test_a_restarted_coordinator_has_the_runs_in_their_line() -> None:
    state = with_runs(a_run("a"), a_run("b"), a_run("c"))
    records = [Task.from_json(task.to_json()) for task in state.local_tasks.values()]
    whole, robbed, gap = CoordinatorState("k"), CoordinatorState("k"), CoordinatorState("k")

    recall(whole, records, {}, 0)
    recall(gap, [records[0], records[2]], {}, 0)
    recall(robbed, records[1:], {}, 0)

    assert (whole.threads, whole.thread_order) == (state.threads, state.thread_order)
    assert [name in whole.queue for name in "abc"] == [False, False, False]
    assert [name in robbed.queue for name in "bc"] == [True, False]
    assert robbed.local_tasks["b"].behind is None
    assert (gap.local_tasks["c"].behind, "c" in gap.queue) == ("a", False)  # the record between them cannot be read
