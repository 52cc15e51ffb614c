"""What a coordinator decides: submitting, results, cancelling, deadlines, and its Python API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.rules import recall
from coordinator.state import AssignTask
from coordinator.task_life import DEADLINES_KEPT
from core.langgraph_state import AgentStatus
from core.roles import Action
from core.step import Call, Drain, Sending, Table
from core.tasks import UNTOUCHED, Task, TaskStatus
from tests.builders import CLIENT, DISTRIBUTOR, NOW, a_task, record, sent
from tests.coordinator_steps import (
    CLIENT_2,
    OTHER,
    a_coordinator,
    alive,
    refusals,
    result,
    stored,
    submitted,
    take,
    to_me,
)

# ---- submitting ----


DAY = timedelta(days=1)


def test_a_submitted_task_is_recorded_answered_and_handed_over_in_one_step() -> None:
    state = a_coordinator(DISTRIBUTOR)

    step = take(state, submitted(a_task("t", payload=[1, 2]), request_id="r-1"))

    assert record(step, Table.TASKS, "t")["status"] == "in_progress"
    assert record(step, Table.OPEN, "t") == int(NOW.timestamp() * 1000)
    assert record(step, Table.WANTED, "t", "distributor-1") == {"want": "assigned"}
    [item] = sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert (item["task_id"], item["payload"]) == ("t", [1, 2])
    assert Sending(CLIENT, Action.TASK_ACCEPTED, "r-1") in step.extras
    assert refusals(step) == []
    assert state.status is AgentStatus.BUSY


def test_a_task_without_anybody_to_run_it_waits_and_is_recorded_as_pending() -> None:
    state = a_coordinator()

    step = take(state, submitted(a_task()))

    assert record(step, Table.TASKS, "t").get("status", "pending") == "pending"
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert "t" in state.queue


def test_a_waiting_task_is_handed_over_when_a_distributor_comes() -> None:
    state = a_coordinator()
    take(state, submitted(a_task()))

    step = take(state, beats=[alive(DISTRIBUTOR, capacity=4)])

    assert [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)] == ["t"]


def test_no_distributor_gets_more_than_it_says_it_can_take() -> None:
    state = a_coordinator(DISTRIBUTOR, capacity=2)

    step = take(state, submitted(*[a_task(f"t{n}") for n in range(5)]))

    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == 2
    assert len(state.queue) == 3


def test_a_result_makes_room_for_the_next_task_in_the_same_step() -> None:
    state = a_coordinator(DISTRIBUTOR, capacity=1)
    take(state, submitted(a_task("t1"), a_task("t2")))

    step = take(state, result("t1"))

    assert [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)] == ["t2"]


def test_tasks_are_spread_over_the_distributors() -> None:
    state = a_coordinator(DISTRIBUTOR, OTHER)

    step = take(state, submitted(*[a_task(f"t{n}") for n in range(6)]))

    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == len(sent(step, OTHER, Action.ASSIGN_TASK)) == 3


TOUCHED = {
    "status": "completed", "result": "forged", "attempt": 9, "retry_count": 9, "parent_id": "p", "root_id": "q",
    "reply_to": ["x"], "assigned_to": "distributor-9", "cancel_requested": True, "children": ["c"], "depth": 9,
    "inputs": [["c", "0"]], "owner": "client:other", "then": {"task_type": "merge"}, "output": "forged",
    "error": {"type": "E", "message": "m"}, "errors": [{"type": "E", "message": "m"}], "submission": "1-0",
    "waits": [{"id": "q"}], "answered": [["q", "m"]], "lineage": ["sum"], "thread_order": 9,
    "grants": [["x", {"calls": 1}]],
    "behind": "p", "undoes": ["p"], "forgotten_children": 9, "run_key": "k", "begun_as": "other",
    **dict.fromkeys(("updated_at", "started_at", "completed_at"), "2026-01-01T12:00:00Z"),
}  # fmt: skip


@pytest.mark.parametrize("field", [name.removesuffix("_json") for name in UNTOUCHED])
def test_what_only_the_system_may_say_of_a_task_is_refused_by_name(field: str) -> None:
    state = a_coordinator(DISTRIBUTOR)

    step = take(state, submitted({"task_id": "t", "task_type": "sum", field: TOUCHED[field]}, a_task("good")))

    [refusal] = refusals(step)
    assert f"task field '{field}': the system alone sets it" in refusal["reason"]
    assert set(state.local_tasks) == {"good"}


@pytest.mark.parametrize("delay", [{"not_before": NOW + timedelta(seconds=4)}, {"delay_s": 4}], ids=["moment", "delay"])
def test_a_task_is_not_begun_before_its_moment_also_by_a_coordinator_that_started_since(delay: Any) -> None:
    state, after = a_coordinator(DISTRIBUTOR), a_coordinator()
    stored = Task(**record(take(state, submitted(a_task(**delay))), Table.TASKS, "t"))
    recall(after, [stored], {}, mono_ms=0)

    for coordinator in (state, after):
        early = take(coordinator, beats=[alive(DISTRIBUTOR, beat=2)], later_s=3.9)
        late = take(coordinator, later_s=4)
        assert sent(early, DISTRIBUTOR, Action.ASSIGN_TASK) == []
        [handed] = sent(late, DISTRIBUTOR, Action.ASSIGN_TASK)
        assert {"not_before", "delay_s"}.isdisjoint(handed)


def test_of_a_moment_and_a_delay_the_later_counts() -> None:
    state = a_coordinator()
    take(state, submitted(a_task("t1", delay_s=9, not_before=NOW), a_task("t2", delay_s=0, not_before=NOW + DAY)))
    assert [task.not_before for task in state.local_tasks.values()] == [NOW + timedelta(seconds=9), NOW + DAY]


def test_a_task_that_is_not_to_begin_before_its_deadline_is_refused() -> None:
    [refusal] = refusals(take(a_coordinator(), submitted(a_task(deadline=NOW + DAY, not_before=NOW + 2 * DAY))))
    assert "'not_before': lies after the deadline" in refusal["reason"]


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"task_id": "t", "task_type": "sum", "payload": "x" * 300_000}, "payload"),
        ({"task_id": "t"}, "task_type"),
        ({"task_id": "no spaces", "task_type": "sum"}, "task_id"),
        ({"task_id": "t", "task_type": "sum", "timeout_s": -1}, "timeout_s"),
        ({"task_id": "t", "task_type": "sum", "deadline": "2026-01-01T13:00:00"}, "deadline"),
        ("no task", ""),
        (None, ""),
    ],
)
def test_a_bad_task_is_refused_with_its_reason_and_nothing_of_it_is_kept(item: Any, named: str) -> None:
    state = a_coordinator(DISTRIBUTOR)

    step = take(state, submitted(item, a_task("good")))

    [refusal] = refusals(step)
    assert named in refusal["reason"]
    assert set(state.local_tasks) == {"good"}
    assert set(step.writes[Table.TASKS, ""]) == {"good"}


def test_more_tasks_than_are_admitted_are_refused_and_admitted_again_when_some_have_ended() -> None:
    state = a_coordinator(DISTRIBUTOR, max_open_tasks=2)

    step = take(state, submitted(a_task("t1"), a_task("t2"), a_task("t3")))

    assert [refusal["task_id"] for refusal in refusals(step)] == ["t3"]
    take(state, result("t1"))
    assert refusals(take(state, submitted(a_task("t3")))) == []


def test_a_coordinator_that_drains_refuses_new_tasks_and_hands_nothing_out() -> None:
    state = a_coordinator()
    take(state, submitted(a_task("old")))
    take(state, events=[Drain()])

    step = take(state, submitted(a_task("new")), beats=[alive(DISTRIBUTOR, capacity=4)])

    assert "draining" in refusals(step)[0]["reason"]
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []


# ---- one id, one task ----


def test_a_task_that_is_submitted_twice_is_one_task_and_both_clients_hear_of_its_end() -> None:
    state = a_coordinator(DISTRIBUTOR)
    shared = a_task(shared_with=(CLIENT_2.agent_id,))
    take(state, submitted(shared))

    again = take(state, submitted(shared, client=CLIENT_2))
    end = take(state, result("t", result=3))

    assert refusals(again, CLIENT_2) == []
    assert sent(again, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert [sent(end, client, Action.TASK_RESULT)[0]["result"] for client in (CLIENT, CLIENT_2)] == [3, 3]


def test_a_task_that_has_ended_is_told_again_and_not_run_again() -> None:
    state = a_coordinator(DISTRIBUTOR)
    ended = a_task(status=TaskStatus.COMPLETED, result=3)

    step = take(state, submitted(a_task()), stored=stored(ended))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["result"] == 3
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert state.local_tasks == {}


@pytest.mark.parametrize("other", [{"payload": 2}, {"task_type": "count"}])
@pytest.mark.parametrize("already_ended", [False, True])
def test_the_id_of_a_task_cannot_be_used_for_another(other: dict[str, Any], already_ended: bool) -> None:
    state = a_coordinator(DISTRIBUTOR)
    first = a_task(payload=1)
    if not already_ended:
        take(state, submitted(first))

    step = take(
        state,
        submitted(a_task(**{"payload": 1, **other})),
        stored=stored(first.evolve(status=TaskStatus.COMPLETED)) if already_ended else {},
    )

    assert "in use for another task" in refusals(step)[0]["reason"]
    assert sent(step, CLIENT, Action.TASK_RESULT) == []


@pytest.mark.parametrize("action", [Action.SUBMIT_TASK, Action.WATCH_TASK, Action.CANCEL_TASK])
def test_a_task_that_ends_in_the_same_step_is_known_to_who_asks_for_it_in_that_step(action: Action) -> None:
    state = a_coordinator(DISTRIBUTOR)
    shared = a_task(shared_with=("*",))
    take(state, submitted(shared))
    item = shared if action is Action.SUBMIT_TASK else "t"

    # It was open when records were looked up for this batch, so its record is not in `stored`.
    step = take(state, result("t", result=3), to_me(CLIENT_2, action, [item]))

    assert refusals(step, CLIENT_2) == []
    assert state.local_tasks == {}
    told = sent(step, CLIENT_2, Action.TASK_RESULT)
    assert [report["result"] for report in told] == ([] if action is Action.CANCEL_TASK else [3])


# ---- results ----


def test_a_result_is_recorded_taken_off_the_open_ones_and_told() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, result("t", result={"n": 3}, worker="worker-1"), later_s=2)

    task = record(step, Table.TASKS, "t")
    assert (task["status"], task["result"], task["retry_count"]) == ("completed", {"n": 3}, 1)
    assert task["assigned_to"] == "distributor-1/worker-1"
    assert record(step, Table.OPEN, "t") is None
    assert record(step, Table.ENDED, "t") == int(NOW.timestamp() * 1000) + 2000
    assert record(step, Table.WANTED, "t", "distributor-1") is None
    assert sent(step, CLIENT, Action.TASK_RESULT) == [task]
    assert state.status is AgentStatus.IDLE


def test_a_failure_is_recorded_with_its_error() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, result("t", "failed", error={"type": "ValueError", "message": "no", "traceback": "tb"}))

    error = record(step, Table.TASKS, "t")["error"]
    assert (error["type"], error["message"], error["traceback"]) == ("ValueError", "no", "tb")


def test_the_end_of_a_task_counts_once() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, result("t", result=1))

    step = take(state, result("t", result=2))

    assert not step.commits
    assert state.counts["late_results"] == 1


def test_a_result_from_a_distributor_that_does_not_have_the_task_counts_for_nothing() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, result("t", result="forged", sender=OTHER))

    assert not step.commits
    assert state.local_tasks["t"].status == "in_progress"


def test_a_task_that_comes_back_goes_to_another_distributor_with_the_attempts_it_has_had() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, beats=[alive(OTHER, capacity=100)])

    step = take(state, result("t", "returned", attempt=3, retry_count=2))

    [item] = sent(step, OTHER, Action.ASSIGN_TASK)
    assert (item["attempt"], item["retry_count"]) == (3, 2)
    assert record(step, Table.WANTED, "t", "distributor-1") is None
    assert record(step, Table.WANTED, "t", "distributor-2") == {"want": "assigned"}


# ---- cancelling ----


def test_a_task_that_waits_is_cancelled_at_once() -> None:
    state = a_coordinator()
    take(state, submitted(a_task()))

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert refusals(step) == []
    assert "t" not in state.queue


def test_the_cancellation_of_a_task_that_runs_is_passed_down_as_often_as_it_is_asked_for_and_its_end_awaited() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))
    again = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))
    end = take(state, result("t", "cancelled"))

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["t"]
    assert record(step, Table.WANTED, "t", "distributor-1") == {"want": "cancelled"}
    assert record(step, Table.TASKS, "t")["cancel_requested"] is True
    assert sent(again, DISTRIBUTOR, Action.CANCEL_TASK) == ["t"]
    assert sent(end, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"


def test_the_deadline_of_a_task_that_has_ended_is_not_that_of_another_under_the_same_id() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task(deadline=NOW + timedelta(seconds=5))))
    take(state, result("t"))
    take(state, submitted(a_task("t", deadline=NOW + timedelta(seconds=50)), number=2))

    step = take(state, later_s=10)

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == []


def test_deadlines_are_forgotten_with_the_tasks_that_have_ended() -> None:
    state = a_coordinator(DISTRIBUTOR)
    for number in range(30):
        ids = [f"t{number}-{n}" for n in range(100)]
        take(
            state, submitted(*(a_task(task_id, deadline=NOW + timedelta(days=1)) for task_id in ids), number=number + 1)
        )
        take(state, *map(result, ids))

    assert len(state.deadlines) <= DEADLINES_KEPT + 2 * 100


def test_a_task_that_finished_before_its_cancellation_arrived_keeps_its_result() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    step = take(state, result("t", result=3))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "completed"


def test_a_task_that_comes_back_after_its_cancellation_is_not_run_again() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    step = take(state, result("t", "returned"))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []


@pytest.mark.parametrize("action", [Action.CANCEL_TASK, Action.WATCH_TASK])
def test_an_id_that_nobody_knows_is_named_in_the_answer(action: Action) -> None:
    step = take(a_coordinator(), to_me(CLIENT, action, ["nobody"]))

    assert [refusal["task_id"] for refusal in refusals(step)] == ["nobody"]


def test_cancelling_a_task_that_has_ended_changes_nothing_and_is_no_error() -> None:
    step = take(a_coordinator(), to_me(CLIENT, Action.CANCEL_TASK, ["t"]), stored=stored(a_task(status="completed")))

    assert refusals(step) == []
    assert step.writes == {}


# ---- the Python API ----


def test_a_task_can_be_assigned_to_a_distributor_that_does_not_run_yet() -> None:
    state = a_coordinator()
    call = Call(AssignTask(a_task(), "distributor-1", str(CLIENT)))

    step = take(state, events=[call])

    assert call.answer is True
    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == 1
    assert record(step, Table.WANTED, "t", "distributor-1") == {"want": "assigned"}


def test_a_task_that_is_assigned_waits_at_its_distributor_for_its_moment() -> None:
    task, begins = a_task(delay_s=4), NOW + timedelta(seconds=4)

    step = take(a_coordinator(), events=[Call(AssignTask(task, "distributor-1", str(CLIENT)))])

    [handed] = sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert Task(**handed).not_before == begins


def test_a_task_that_was_assigned_before_stays_where_it_is() -> None:
    state = a_coordinator()
    take(state, events=[Call(AssignTask(a_task(), "distributor-1", str(CLIENT)))])
    again = Call(AssignTask(a_task(), "distributor-2", str(CLIENT)))

    step = take(state, events=[again])

    assert again.answer is True
    assert sent(step, OTHER, Action.ASSIGN_TASK) == []


# ---- time ----


def test_a_task_that_waits_past_its_deadline_is_abandoned() -> None:
    state = a_coordinator()
    take(state, submitted(a_task(deadline=NOW + timedelta(seconds=10))))

    early, late = take(state, later_s=9.9), take(state, later_s=10)

    assert sent(early, CLIENT, Action.TASK_RESULT) == []
    [told] = sent(late, CLIENT, Action.TASK_RESULT)
    assert (told["status"], told["error"]["type"]) == ("abandoned", "deadline")
    assert len(state.queue) == 0


def test_a_task_that_was_stopped_at_its_deadline_is_abandoned_though_the_clock_was_set_back_since() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task(deadline=NOW + timedelta(seconds=10))))
    take(state, later_s=10)

    end = take(state, result("t", "cancelled"), later_s=-110)

    [told] = sent(end, CLIENT, Action.TASK_RESULT)
    assert (told["status"], told["error"]["type"]) == ("abandoned", "deadline")


def test_a_task_that_runs_past_its_deadline_is_stopped_and_then_abandoned() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task(deadline=NOW + timedelta(seconds=10))))

    stop = take(state, later_s=10)
    end = take(state, result("t", "cancelled"), later_s=11)

    assert sent(stop, DISTRIBUTOR, Action.CANCEL_TASK) == ["t"]
    [told] = sent(end, CLIENT, Action.TASK_RESULT)
    assert (told["status"], told["error"]["type"]) == ("abandoned", "deadline")


def test_ended_tasks_are_looked_for_at_intervals() -> None:
    state = a_coordinator()

    steps = {seconds: take(state, later_s=seconds) for seconds in (1, 9, 10, 11, 20)}

    assert [seconds for seconds, step in steps.items() if step.effects] == [10, 20]


def test_a_step_without_anything_new_asks_nothing_of_the_world_however_many_tasks_are_open() -> None:
    state = a_coordinator(DISTRIBUTOR, capacity=10)
    take(state, submitted(*[a_task(f"t{n}") for n in range(200)]))
    take(state, later_s=0.5)  # tells what they wait for

    step = take(state, later_s=1)

    assert not step.commits


def test_metadata_that_a_hand_made_message_brings_are_held_to_the_limit_of_payloads() -> None:
    state = a_coordinator(DISTRIBUTOR)
    large = {"task_id": "t", "task_type": "sum", "metadata": {"note": "x" * 300_000}}

    [refusal] = refusals(take(state, submitted(large)))

    assert "metadata of task 't' has" in refusal["reason"]
    assert not state.local_tasks
