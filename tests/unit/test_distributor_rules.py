"""What a distributor decides: handing out, outcomes, cancelling, draining, and its Python API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.config.settings import AgentConfig
from core.langgraph_state import AgentStatus
from core.roles import Action, Address
from core.step import Call, Drain, Sending, Table
from core.tasks import Priority, Task
from distributor.agent import DistributorBehaviour
from distributor.state import AssignTask, HandBack, RegisterWorker
from distributor.task_life import ENDED_KEPT
from tests.builders import (
    COORDINATOR,
    DISTRIBUTOR,
    NOW,
    WORKER,
    a_beat,
    a_task,
    record,
    sent,
)
from tests.distributor_steps import (
    WORKER_2,
    a_distributor,
    assigned,
    failure,
    handed,
    outcome,
    reports,
    silence,
    take,
    to_me,
)

SUSPENDED: dict[str, Any] = {"status": "suspended", "waits": [{"id": "q", "asks": [1]}]}

# ---- handing out ----


def test_a_task_goes_to_a_worker_as_its_first_attempt_in_one_step() -> None:
    state = a_distributor(WORKER)

    step = take(state, assigned(a_task(payload=[1])))

    [item] = sent(step, WORKER, Action.ASSIGN_TASK)
    assert (item["task_id"], item["payload"], item["attempt"], item["retry_count"]) == ("t", [1], 1, 1)
    stored = record(step, Table.ACTUAL, "t")
    assert (stored["status"], stored["assigned_to"], stored["attempt"]) == ("in_progress", "worker-1", 1)
    assert step.writes[Table.HEADER, ""]["status"] == b"busy"
    assert state.status is AgentStatus.BUSY


def test_what_is_handed_over_is_meant_for_this_start_of_the_worker_only() -> None:
    state = a_distributor(WORKER, incarnation=7)

    step = take(state, assigned(a_task()))

    assert Sending(WORKER, Action.ASSIGN_TASK, None, 7) in step.sends


def test_a_task_nobody_can_run_yet_waits_and_is_stored() -> None:
    state = a_distributor(WORKER)

    step = take(state, assigned(a_task(task_type="other")))
    later = take(state, beats=[a_beat(WORKER_2, capabilities=["task:other"])])

    assert record(step, Table.ACTUAL, "t").get("status", "pending") == "pending"
    assert handed(step) == []
    assert handed(later, WORKER_2) == [("t", 1)]


def test_a_task_goes_to_a_worker_that_has_all_its_capabilities() -> None:
    state = a_distributor(WORKER)
    take(state, beats=[a_beat(WORKER_2, capabilities=["task:sum", "gpu"])])

    step = take(state, assigned(a_task(capabilities=("gpu",))))

    assert (handed(step), handed(step, WORKER_2)) == ([], [("t", 1)])


@pytest.mark.parametrize(("versatile", "plain"), [(WORKER, WORKER_2), (WORKER_2, WORKER)])
def test_no_worker_idles_because_another_one_does_what_it_could_have_done(versatile: Address, plain: Address) -> None:
    state = a_distributor(versatile, capabilities=["task:other", "task:sum"], concurrency=1)
    take(state, beats=[a_beat(plain, concurrency=1)])

    step = take(state, assigned(a_task(), a_task("z", task_type="other")))

    assert (handed(step, plain), handed(step, versatile)) == ([("t", 1)], [("z", 1)])


def test_the_most_urgent_task_is_handed_over_first_when_there_is_room_for_one() -> None:
    state = a_distributor(WORKER, capacity=1)

    step = take(state, assigned(a_task("low", priority=Priority.LOW), a_task("urgent", priority=Priority.URGENT)))

    assert handed(step) == [("urgent", 1)]


def test_an_assignment_that_is_told_twice_is_one() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    assert handed(take(state, assigned(a_task()))) == []


def test_a_run_of_an_agent_takes_a_slot_of_its_own_kind() -> None:
    state = a_distributor(WORKER, capabilities=("task:graph", "task:sum"), agents=("graph",), agent_concurrency=2)

    take(state, assigned(a_task("run", task_type="graph"), a_task("plain")))

    worker = state.workers["worker-1"]
    assert ({*worker.in_flight}, worker.is_run("run"), worker.is_run("plain")) == ({"run", "plain"}, True, False)


def test_tasks_are_spread_over_the_workers() -> None:
    state = a_distributor(WORKER, WORKER_2)

    step = take(state, assigned(*[a_task(f"t{n}") for n in range(6)]))

    assert (len(handed(step)), len(handed(step, WORKER_2))) == (3, 3)


# ---- outcomes ----


def test_a_result_goes_up_and_the_task_leaves_the_cell_but_stays_visible() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, outcome("t", result=3, run_ms=5.0))

    [report] = reports(step)
    assert {name: report[name] for name in ("task_id", "status", "result", "worker", "attempt", "retry_count")} == {
        "task_id": "t", "status": "completed", "result": 3, "worker": "worker-1", "attempt": 1, "retry_count": 1,
    }  # fmt: skip
    assert record(step, Table.ACTUAL, "t")["status"] == "completed"
    assert state.local_tasks == {}


def test_what_an_attempt_has_printed_goes_up_with_its_result() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    [report] = reports(take(state, outcome("t", result=5, output="said\n")))

    assert (report["result"], report["output"]) == (5, "said\n")


def test_a_result_makes_room_for_the_next_task_in_the_same_step() -> None:
    state = a_distributor(WORKER, capacity=1)
    take(state, assigned(a_task("t1"), a_task("t2")))

    assert handed(take(state, outcome("t1"))) == [("t2", 1)]


@pytest.mark.parametrize(
    "late",
    [outcome("t", attempt=2), outcome("t", attempt=0), outcome("t", worker=WORKER_2), outcome("unknown")],
    ids=["attempt that never was", "older attempt", "another worker", "unknown task"],
)
def test_an_outcome_of_anything_but_the_current_attempt_counts_for_nothing(late: Any) -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, late)

    assert reports(step) == []
    assert state.local_tasks["t"].status == "in_progress"
    assert state.counts["late_results"] == 1


def test_of_two_outcomes_of_one_attempt_the_first_counts() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, outcome("t", result=1), outcome("t", result=2))

    assert [report["result"] for report in reports(step)] == [1]


def test_no_more_than_a_few_ended_tasks_stay_visible() -> None:
    state = a_distributor(WORKER)
    total = ENDED_KEPT + 3
    for number in range(total):
        take(state, assigned(a_task(f"t{number}")))
        step = take(state, outcome(f"t{number}"))

    assert record(step, Table.ACTUAL, "t2") is None
    assert len(state.ended) == ENDED_KEPT


# ---- failures ----


def test_a_task_that_failed_is_tried_again_after_its_pause_on_another_worker() -> None:
    state = a_distributor(WORKER, WORKER_2)
    take(state, assigned(a_task(backoff_s=2)))

    failed = take(state, failure("t"))
    early = take(state, later_s=0.9)
    again = take(state, later_s=2)

    assert reports(failed) == []
    assert record(failed, Table.ACTUAL, "t")["error"]["worker"] == "worker-1"
    assert handed(early) + handed(early, WORKER_2) == []
    assert (handed(again), handed(again, WORKER_2)) == ([], [("t", 2)])


def test_the_only_worker_gets_a_task_again_that_failed_there() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0)))

    assert handed(take(state, failure("t"))) == [("t", 2)]


def test_a_task_whose_deadline_had_passed_before_it_was_run_is_abandoned() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    error = {"type": "deadline", "message": "too late", "retryable": False}

    [report] = reports(take(state, outcome("t", "failed", error=error)))

    assert report["status"] == "abandoned"


@pytest.mark.parametrize(
    ("task", "fields", "attempts"),
    [
        (a_task(backoff_s=0), {}, 3),
        (a_task(backoff_s=0), {"max_attempts": 2}, 2),
        (a_task(backoff_s=0, max_attempts=4), {"max_attempts": 2}, 4),
        (a_task(backoff_s=0), {"retryable": False}, 1),
    ],
    ids=["default", "the handler's", "the task's own goes first", "another attempt cannot help"],
)
def test_a_task_fails_for_good_after_its_last_attempt(task: Task, fields: dict[str, Any], attempts: int) -> None:
    state = a_distributor(WORKER)
    take(state, assigned(task))

    for attempt in range(1, attempts):
        assert reports(take(state, failure("t", attempt=attempt, **fields))) == []
    [report] = reports(take(state, failure("t", attempt=attempts, **fields)))

    assert (report["status"], report["retry_count"]) == ("failed", attempts)
    assert (report["error"]["type"], report["error"]["attempt"]) == ("ValueError", attempts)


def test_the_pause_doubles_with_every_attempt() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=1, max_attempts=4)))
    take(state, failure("t"))
    take(state, later_s=1)

    take(state, failure("t", attempt=2), later_s=10)

    pause = a_task(backoff_s=1, retry_count=2).retry_delay()
    assert state.queue.next_wake_ms() == int((NOW + timedelta(seconds=10) + pause).timestamp() * 1000)


# ---- cancelling ----


def test_a_task_that_waits_is_cancelled_at_once() -> None:
    state = a_distributor()
    take(state, assigned(a_task()))

    step = take(state, to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    assert [(report["task_id"], report["status"]) for report in reports(step)] == [("t", "cancelled")]
    assert len(state.queue) == 0


def test_the_cancellation_of_an_attempt_goes_to_its_worker_and_is_stored() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    assert sent(step, WORKER, Action.CANCEL_TASK) == [{"task_id": "t", "attempt": 1}]
    assert reports(step) == []
    assert record(step, Table.ACTUAL, "t")["cancel_requested"] is True


@pytest.mark.parametrize("max_attempts", [None, 1])
@pytest.mark.parametrize("how", ["failed", "returned", "worker gone"])
def test_a_task_that_is_to_be_cancelled_is_never_tried_again(how: str, max_attempts: int | None) -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0, max_attempts=max_attempts)))
    take(state, to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    step = {
        "failed": lambda: take(state, failure("t")),
        "returned": lambda: take(state, outcome("t", "returned")),
        "worker gone": lambda: silence(state),
    }[how]()

    assert [report["status"] for report in reports(step)] == ["cancelled"]


def test_a_cancelled_task_that_is_not_here_is_answered_so_that_nobody_waits_for_it() -> None:
    step = take(a_distributor(), to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    assert [(report["task_id"], report["status"]) for report in reports(step)] == [("t", "cancelled")]


# ---- draining ----


def test_a_distributor_that_drains_gives_back_what_waits_and_keeps_what_runs_until_it_has_ended() -> None:
    state = a_distributor(WORKER, capacity=1)
    take(state, assigned(a_task("runs"), a_task("waits")))

    drain = take(state, events=[Drain()])
    end = take(state, outcome("runs"))
    new = take(state, assigned(a_task("new")))

    assert [(report["task_id"], report["status"]) for report in reports(drain)] == [("waits", "returned")]
    assert [(report["task_id"], report["status"]) for report in reports(end)] == [("runs", "completed")]
    assert [(report["task_id"], report["status"]) for report in reports(new)] == [("new", "returned")]
    assert state.local_tasks == {}


def test_what_does_not_end_in_time_is_stopped_and_given_back_with_its_attempts() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, events=[Drain(), Call(HandBack())])

    assert sent(step, WORKER, Action.CANCEL_TASK) == [{"task_id": "t", "attempt": 1}]
    assert Sending(WORKER, Action.CANCEL_TASK, None, state.workers["worker-1"].incarnation) in step.sends
    [report] = reports(step)
    assert (report["status"], report["attempt"], report["retry_count"]) == ("returned", 1, 1)


def test_what_has_not_ended_of_a_worker_that_is_gone_is_given_back_without_a_word_to_it() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    del state.workers["worker-1"]

    step = take(state, events=[Drain(), Call(HandBack())])

    assert [report["status"] for report in reports(step)] == ["returned"]
    assert not [sending for sending in step.sends if sending.action == Action.CANCEL_TASK]


# ---- the Python API ----


def test_a_registered_worker_is_shown_whether_or_not_it_runs() -> None:
    state = a_distributor()
    take(state, events=[Call(RegisterWorker("worker-9"))])

    step = take(state, beats=[a_beat(WORKER)])

    assert record(step, Table.HEADER, "assigned_workers") == ["worker-1", "worker-9"]


def test_a_task_can_be_assigned_to_one_worker_past_the_queue() -> None:
    state = a_distributor(WORKER, WORKER_2)
    call, absent, twice = (Call(AssignTask(a_task(), name)) for name in ("worker-2", "nobody", "worker-1"))

    step = take(state, events=[call, absent, twice])

    assert (call.answer, absent.answer, twice.answer) == (True, False, False)
    assert (handed(step), handed(step, WORKER_2)) == ([], [("t", 1)])


def test_a_task_that_a_program_assigned_ends_with_its_distributor_since_no_other_knows_of_it() -> None:
    state = a_distributor(WORKER)
    take(state, events=[Call(AssignTask(a_task(), "worker-1"))])

    step = take(state, events=[Drain(), Call(HandBack())])

    [report] = reports(step)
    assert (report["status"], report["error"]["type"]) == ("abandoned", "drained")
    assert record(step, Table.ACTUAL, "t")["status"] == "abandoned"
    assert state.local_tasks == {}


def test_a_step_without_anything_new_asks_nothing_of_the_world_however_many_tasks_wait() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(*[a_task(f"t{n}") for n in range(200)]))

    assert not take(state, later_s=1).commits


@pytest.mark.parametrize("outcome_of_it", [{"status": "delegated", "children": []}, SUSPENDED])
def test_a_task_that_waits_and_that_no_coordinator_knows_fails_and_says_what_to_do(outcome_of_it: Any) -> None:
    state = a_distributor(WORKER)
    take(state, events=[Call(AssignTask(a_task(), "worker-1"))])

    [report] = reports(take(state, outcome("t", **outcome_of_it)))

    assert (report["status"], report["error"]["type"], report["error"]["retryable"]) == ("failed", "BadTask", False)
    assert report["error"]["worker"] == "worker-1"
    assert report["error"]["message"].startswith("it waits for others")
    assert "submit it, instead of assigning it here" in report["error"]["message"]
    assert "children" not in report


def test_a_suspended_attempt_is_passed_on_with_what_it_waits_for() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, outcome("t", **SUSPENDED, output="thinking"))

    [report] = reports(step)
    assert (report["status"], report["waits"], report["output"]) == ("suspended", SUSPENDED["waits"], "thinking")
    assert record(step, Table.ACTUAL, "t")["status"] == "waiting"
    assert state.local_tasks == {}


def test_a_task_that_ended_here_and_is_back_as_its_continuation_is_not_said_to_have_ended() -> None:
    behaviour = DistributorBehaviour(DISTRIBUTOR, COORDINATOR, AgentConfig())
    behaviour.state = a_distributor(WORKER)
    take(behaviour.state, assigned(a_task("parent"), a_task("t")))
    take(behaviour.state, outcome("parent", "delegated", children=[]), outcome("t"))

    before = behaviour.beat().ended
    take(behaviour.state, assigned(a_task("parent", attempt=1)))

    assert before == ("parent", "t")
    assert behaviour.beat().ended == ("t",)
