"""What a distributor decides."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.agents import Health
from core.langgraph_state import AgentStatus
from core.roles import Action, Address, Role
from core.step import Call, Drain, Sending, Step, Table, run
from core.tasks import Priority, Task
from distributor.graph import build
from distributor.rules import ENDED_KEPT, DistributorState, recall
from tests.builders import (
    COORDINATOR, DISTRIBUTOR, NOW, WORKER, a_batch, a_beat, a_task, message_to, record, sent, taken,
)  # fmt: skip

to_me = message_to(DISTRIBUTOR)
GRAPH = build()
WORKER_2 = Address(Role.WORKER, "worker-2")


def take(state: DistributorState, *messages: Any, **fields: Any) -> Step:
    return run(GRAPH, state, a_batch(*messages, **fields))


def a_distributor(*workers: Address, **beat: Any) -> DistributorState:
    state = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=1)
    take(state, beats=[a_beat(worker, **beat) for worker in workers])
    return state


def assigned(*tasks: Task) -> Any:
    return to_me(COORDINATOR, Action.ASSIGN_TASK, tasks)


def outcome(task_id: str, status: str = "completed", *, attempt: int = 1, worker: Address = WORKER, **more: Any) -> Any:
    return to_me(worker, Action.TASK_RESULT, [{"task_id": task_id, "attempt": attempt, "status": status, **more}])


def failure(task_id: str, *, attempt: int = 1, worker: Address = WORKER, retryable: bool = True, **more: Any) -> Any:
    error = {"type": "ValueError", "message": "no", "retryable": retryable}
    return outcome(task_id, "failed", attempt=attempt, worker=worker, error=error, **more)


def reports(step: Step) -> list[Any]:
    return sent(step, COORDINATOR, Action.TASK_RESULT)


def handed(step: Step, worker: Address = WORKER) -> list[tuple[str, int]]:
    """What a worker is given in this step: (task id, attempt)."""
    return [(item["task_id"], item["attempt"]) for item in sent(step, worker, Action.ASSIGN_TASK)]


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


def test_the_most_urgent_task_is_handed_over_first_when_there_is_room_for_one() -> None:
    state = a_distributor(WORKER, capacity=1)

    step = take(state, assigned(a_task("low", priority=Priority.LOW), a_task("urgent", priority=Priority.URGENT)))

    assert handed(step) == [("urgent", 1)]


def test_an_assignment_that_is_told_twice_is_one() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    assert handed(take(state, assigned(a_task()))) == []


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
    early = take(state, later_s=1.9)
    again = take(state, later_s=2)

    assert reports(failed) == []
    assert record(failed, Table.ACTUAL, "t")["error"]["worker"] == "worker-1"
    assert handed(early) + handed(early, WORKER_2) == []
    assert (handed(again), handed(again, WORKER_2)) == ([], [("t", 2)])


def test_the_only_worker_gets_a_task_again_that_failed_there() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0)))

    assert handed(take(state, failure("t"))) == [("t", 2)]


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

    assert state.queue.next_wake_ms() == int((NOW + timedelta(seconds=12)).timestamp() * 1000)


# ---- cancelling ----


def test_a_task_that_waits_is_cancelled_at_once() -> None:
    state = a_distributor()
    take(state, assigned(a_task()))

    step = take(state, to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    assert [(one["task_id"], one["status"]) for one in reports(step)] == [("t", "cancelled")]
    assert len(state.queue) == 0


def test_the_cancellation_of_an_attempt_goes_to_its_worker_and_is_stored() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    assert sent(step, WORKER, Action.CANCEL_TASK) == [{"task_id": "t", "attempt": 1}]
    assert reports(step) == []
    assert record(step, Table.ACTUAL, "t")["cancel_requested"] is True


@pytest.mark.parametrize("how", ["failed", "returned", "worker gone"])
def test_a_task_that_is_to_be_cancelled_is_never_tried_again(how: str) -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0)))
    take(state, to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    step = {
        "failed": lambda: take(state, failure("t")),
        "returned": lambda: take(state, outcome("t", "returned")),
        "worker gone": lambda: take(state, later_s=60),
    }[how]()

    assert [one["status"] for one in reports(step)] == ["cancelled"]


def test_a_cancelled_task_that_is_not_here_is_answered_so_that_nobody_waits_for_it() -> None:
    step = take(a_distributor(), to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))

    assert [(one["task_id"], one["status"]) for one in reports(step)] == [("t", "cancelled")]


# ---- workers that come and go ----


def test_the_tasks_of_a_worker_that_has_fallen_silent_go_to_others() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    take(state, beats=[a_beat(WORKER_2)], later_s=4)

    early, late = take(state, later_s=4.9), take(state, later_s=5)

    assert handed(early, WORKER_2) == []
    assert handed(late, WORKER_2) == [("t", 2)]
    assert record(late, Table.HEADER, "assigned_workers") == ["worker-2"]
    assert record(late, Table.HEARTBEATS, "worker-1") is None


def test_a_worker_that_is_suspected_gets_nothing_new() -> None:
    state = a_distributor(WORKER)
    take(state, later_s=3)

    step = take(state, assigned(a_task()), later_s=3)

    assert handed(step) == []
    assert state.workers["worker-1"].health is Health.SUSPECT


def test_only_attempts_that_may_have_begun_count_when_a_worker_is_gone() -> None:
    state = a_distributor(WORKER, concurrency=2, capacity=4)
    take(state, assigned(*[a_task(f"t{n}") for n in range(4)]))

    take(state, later_s=5)

    assert {task.task_id: task.retry_count for task in state.local_tasks.values()} == {
        "t0": 1,
        "t1": 1,
        "t2": 0,
        "t3": 0,
    }


def test_a_task_whose_workers_were_gone_too_often_is_abandoned() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(max_attempts=1)))

    [report] = reports(take(state, later_s=5))

    assert (report["status"], report["error"]["type"]) == ("abandoned", "worker_lost")


def test_a_task_whose_handler_allows_no_second_attempt_gets_none_when_its_worker_is_gone() -> None:
    state = a_distributor(WORKER, attempts={"sum": 1})
    take(state, assigned(a_task()))
    take(state, beats=[a_beat(WORKER_2)], later_s=4)

    step = take(state, later_s=5)

    assert [one["status"] for one in reports(step)] == ["abandoned"]
    assert handed(step, WORKER_2) == []


def test_what_a_worker_had_is_given_out_again_when_it_was_started_anew() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, a_beat(WORKER, incarnation=2, action=Action.AGENT_JOINED))
    late = take(state, outcome("t", attempt=1))

    assert handed(step) == [("t", 2)]
    assert reports(late) == []


def test_an_attempt_that_a_worker_returned_does_not_count_and_it_gets_nothing_new_before_its_next_heartbeat() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    back = take(state, outcome("t", "returned"))
    still = take(state, later_s=0.1)
    again = take(state, beats=[a_beat(WORKER, beat=2)])

    assert handed(back) + handed(still) == []
    assert handed(again) == [("t", 2)]
    assert state.local_tasks["t"].retry_count == 1


def test_a_worker_that_has_left_gets_nothing_even_if_its_last_heartbeat_is_seen_after_its_goodbye() -> None:
    state = a_distributor(WORKER)

    take(state, to_me(WORKER, Action.AGENT_LEFT, number=2), beats=[a_beat(WORKER, beat=2)])

    assert handed(take(state, assigned(a_task()))) == []


def test_a_heartbeat_left_behind_by_a_worker_that_died_long_ago_makes_nobody_of_it() -> None:
    state = a_distributor()

    step = take(state, assigned(a_task()), beats=[a_beat(WORKER)], later_s=3600)

    assert handed(step) == []
    assert record(step, Table.HEARTBEATS, "worker-1") is None


def test_a_task_that_never_reached_its_worker_is_handed_over_again() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    answer = {"parent_incarnation": 1, "received": 1, "sent": 3}

    asked = take(state, beats=[a_beat(WORKER, beat=2, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))
    again = take(state, beats=[a_beat(WORKER, beat=3, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))

    assert handed(asked) == []
    assert handed(again) == [("t", 2)]
    assert state.local_tasks["t"].retry_count == 1


def test_a_task_whose_report_may_still_be_under_way_is_not_handed_over_again() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    answer = {"parent_incarnation": 1, "received": 1, "sent": 4}

    take(state, beats=[a_beat(WORKER, beat=2, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))
    step = take(state, beats=[a_beat(WORKER, beat=3, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))

    assert handed(step) == []


def test_the_coordinator_hears_at_once_when_there_is_much_more_or_less_room() -> None:
    state = DistributorState("distributor-1", coordinator=COORDINATOR)

    joined = take(state, beats=[a_beat(WORKER, capacity=8)])
    same = take(state, beats=[a_beat(WORKER, beat=2, capacity=8)])
    gone = take(state, later_s=5)

    capacity = Sending(COORDINATOR, Action.CAPACITY)
    assert joined.extras[capacity] == {"capacity": 16, "capabilities": ["task:sum"]}
    assert capacity not in same.extras
    assert gone.extras[capacity]["capacity"] == 0


# ---- draining ----


def test_a_distributor_that_drains_gives_back_what_waits_and_keeps_what_runs_until_it_has_ended() -> None:
    state = a_distributor(WORKER, capacity=1)
    take(state, assigned(a_task("runs"), a_task("waits")))

    drain = take(state, events=[Drain()])
    end = take(state, outcome("runs"))
    new = take(state, assigned(a_task("new")))

    assert [(one["task_id"], one["status"]) for one in reports(drain)] == [("waits", "returned")]
    assert [(one["task_id"], one["status"]) for one in reports(end)] == [("runs", "completed")]
    assert [(one["task_id"], one["status"]) for one in reports(new)] == [("new", "returned")]
    assert state.local_tasks == {}


def test_what_does_not_end_in_time_is_stopped_and_given_back_with_its_attempts() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, events=[Drain(), Call("hand_back", None, None)])

    assert sent(step, WORKER, Action.CANCEL_TASK) == [{"task_id": "t", "attempt": 1}]
    [report] = reports(step)
    assert (report["status"], report["attempt"], report["retry_count"]) == ("returned", 1, 1)


# ---- the Python API ----


def test_a_registered_worker_is_shown_whether_or_not_it_runs() -> None:
    state = a_distributor()
    take(state, events=[Call("register", "worker-9", None)])

    step = take(state, beats=[a_beat(WORKER)])

    assert record(step, Table.HEADER, "assigned_workers") == ["worker-1", "worker-9"]


def test_a_task_can_be_assigned_to_one_worker_past_the_queue() -> None:
    state = a_distributor(WORKER, WORKER_2)
    call, absent, twice = (Call("assign", (a_task(), name), None) for name in ("worker-2", "nobody", "worker-1"))

    step = take(state, events=[call, absent, twice])

    assert (call.answer, absent.answer, twice.answer) == (True, False, False)
    assert (handed(step), handed(step, WORKER_2)) == ([], [("t", 1)])


# ---- coming back ----


def test_a_distributor_that_comes_back_keeps_what_runs_and_hands_out_what_waits() -> None:
    before = a_distributor(WORKER, capacity=1)
    take(before, assigned(a_task("runs"), a_task("waits")))
    records = [Task.parse(task.to_dict()) for task in before.local_tasks.values()]

    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [*records, a_task("ended", status="completed")], mono_ms=0)
    beat = take(after, beats=[a_beat(WORKER, beat=9, capacity=1, holding=[["runs", 1]])])
    end = take(after, outcome("runs", result=3))

    assert handed(beat) == []
    assert [(one["task_id"], one["result"]) for one in reports(end)] == [("runs", 3)]
    assert handed(end) == [("waits", 1)]
    assert "ended" not in after.local_tasks


def test_a_worker_that_does_not_come_back_after_the_distributor_did_loses_its_tasks() -> None:
    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [a_task(status="in_progress", assigned_to="worker-1", attempt=1, retry_count=1)], mono_ms=0)
    take(after, beats=[a_beat(WORKER_2)], later_s=4)

    assert handed(take(after, later_s=5), WORKER_2) == [("t", 2)]


def test_a_step_without_anything_new_asks_nothing_of_the_world_however_many_tasks_wait() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(*[a_task(f"t{n}") for n in range(200)]))

    assert not take(state, later_s=1).commits
