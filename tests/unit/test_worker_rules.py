"""What a worker decides."""

from __future__ import annotations

from typing import Any

from core.langgraph_state import AgentStatus
from core.reports import AttemptReport
from core.roles import Action
from core.step import Drain, Step
from core.tasks import Task
from tests.builders import DISTRIBUTOR, WORKER, a_batch, a_task, message_to, sent
from worker.graph import build
from worker.rules import CancelRun, Outcome, ProgressMade, RunTask, Withdraw, Withdrawn, WorkerState

to_me = message_to(WORKER)
GRAPH = build()


def take(state: WorkerState, *messages: Any, **fields: Any) -> Step:
    return GRAPH.run(state, a_batch(*messages, **fields))


def a_worker() -> WorkerState:
    return WorkerState("worker-1", distributor=DISTRIBUTOR)


def assigned(*tasks: Task) -> Any:
    return to_me(DISTRIBUTOR, Action.ASSIGN_TASK, tasks)


def ended(task_id: str, attempt: int = 1, status: Any = "completed") -> Outcome:
    return Outcome(AttemptReport(task_id=task_id, attempt=attempt, status=status))


def reports(step: Step) -> list[Any]:
    return sent(step, DISTRIBUTOR, Action.TASK_RESULT)


def test_an_attempt_is_run_and_its_outcome_reported_once() -> None:
    state = a_worker()

    start = take(state, assigned(a_task(attempt=1)))
    [run] = start.effects
    assert isinstance(run, RunTask)
    assert (run.task.task_id, run.task.attempt) == ("t", 1)
    assert state.status is AgentStatus.BUSY

    end = take(state, events=[ended("t"), ended("t")])
    assert reports(end) == [{"task_id": "t", "attempt": 1, "status": "completed"}]
    assert (state.local_tasks, state.done, state.status) == ({}, 1, AgentStatus.IDLE)


def test_a_task_that_delegates_and_goes_on_is_done_once() -> None:
    state = a_worker()
    for attempt, status in ((1, "delegated"), (2, "cancelled"), (3, "completed")):
        take(state, assigned(a_task(attempt=attempt)))
        take(state, events=[ended("t", attempt, status)])

    assert (state.done, state.failed) == (1, 0)


def test_an_attempt_that_is_told_twice_runs_once() -> None:
    state = a_worker()
    take(state, assigned(a_task(attempt=1)))

    assert take(state, assigned(a_task(attempt=1))).effects == []


def test_a_newer_attempt_replaces_the_older_one_whose_outcome_is_not_reported() -> None:
    state = a_worker()
    take(state, assigned(a_task(attempt=1)))

    step = take(state, assigned(a_task(attempt=2)))
    late = take(state, events=[ended("t", attempt=1)])
    end = take(state, events=[ended("t", attempt=2)])

    assert [type(effect) for effect in step.effects] == [CancelRun, RunTask]
    assert step.effects[0] == CancelRun("t", 1)
    assert reports(late) == []
    assert [report["attempt"] for report in reports(end)] == [2]


def test_an_older_attempt_that_arrives_late_is_not_run() -> None:
    state = a_worker()
    take(state, assigned(a_task(attempt=2)))

    assert take(state, assigned(a_task(attempt=1))).effects == []


def test_failures_are_counted_apart() -> None:
    state = a_worker()
    take(state, assigned(a_task("a", attempt=1), a_task("b", attempt=1)))

    take(state, events=[ended("a"), ended("b", status="failed")])

    assert (state.done, state.failed) == (1, 1)


def test_a_cancellation_stops_the_attempt_it_names_and_no_other() -> None:
    state = a_worker()
    take(state, assigned(a_task(attempt=2)))
    items = [{"task_id": "t", "attempt": 1}, {"task_id": "t", "attempt": 2}, {"task_id": "unknown", "attempt": 1}]

    step = take(state, to_me(DISTRIBUTOR, Action.CANCEL_TASK, items))

    assert step.effects == [CancelRun("t", 2)]
    assert reports(step) == []


def test_progress_is_passed_on_while_the_attempt_runs() -> None:
    state = a_worker()
    take(state, assigned(a_task(attempt=1)))
    progress = ProgressMade("t", 1, {"fraction": 0.5})

    during = take(state, events=[progress])
    after = take(state, events=[ended("t"), progress])

    assert sent(during, DISTRIBUTOR, Action.TASK_PROGRESS) == [
        {"task_id": "t", "attempt": 1, "progress": {"fraction": 0.5}}
    ]
    assert sent(after, DISTRIBUTOR, Action.TASK_PROGRESS) == []


def test_a_worker_that_drains_gives_back_what_has_not_begun_and_finishes_the_rest() -> None:
    state = a_worker()
    waiting = a_task("waits", attempt=1)
    take(state, assigned(a_task("runs", attempt=1), waiting))

    drain = take(state, events=[Drain()])
    back = take(state, events=[Withdrawn((waiting,))])
    end = take(state, events=[ended("runs")])

    assert drain.effects == [Withdraw()]
    assert reports(back) == [{"task_id": "waits", "attempt": 1, "status": "returned"}]
    assert [report["status"] for report in reports(end)] == ["completed"]
    assert state.local_tasks == {}


def test_what_is_assigned_to_a_worker_that_drains_goes_straight_back() -> None:
    state = a_worker()
    take(state, events=[Drain()])

    step = take(state, assigned(a_task(attempt=1)))

    assert step.effects == []
    assert reports(step) == [{"task_id": "t", "attempt": 1, "status": "returned"}]


def test_outcomes_of_one_step_travel_in_one_message() -> None:
    state = a_worker()
    take(state, assigned(*[a_task(f"t{n}", attempt=1) for n in range(50)]))

    step = take(state, events=[ended(f"t{n}") for n in range(50)])

    assert len(step.sends) == 1
    assert len(reports(step)) == 50
