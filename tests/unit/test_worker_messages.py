"""What a worker makes of what it is told, and what it says of its attempts: whole values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from core.event_types import EventType
from core.langgraph_state import AgentStatus
from core.reports import AttemptReport
from core.roles import Action
from core.step import Drain, Sending, Step
from core.tasks import Task
from tests.builders import DISTRIBUTOR, NOW, WORKER, a_batch, a_task, message_to
from worker import rules
from worker.rules import CancelRun, Outcome, ProgressMade, RunTask, Withdraw, Withdrawn, WorkerState

to_me = message_to(WORKER)
REPORT = Sending(DISTRIBUTOR, Action.TASK_RESULT)


def holding(*tasks: Task) -> WorkerState:
    state = WorkerState("worker-1", distributor=DISTRIBUTOR)
    state.local_tasks = {task.task_id: task for task in tasks}
    return state


def attempt(task_id: str = "t", number: int = 2) -> Task:
    return a_task(task_id).evolve(attempt=number)


def told(step: Step) -> list[Any]:
    return [orjson.loads(item) for item in step.sends.get(REPORT, [])]


def receive(state: WorkerState, action: Action, *items: Any) -> Step:
    step = Step()
    rules.receive(state, a_batch(to_me(DISTRIBUTOR, action, items), later_s=2), step)
    return step


def test_an_empty_assignment_is_answered_so_that_the_distributor_knows_it_is_heard() -> None:
    assert receive(holding(), Action.ASSIGN_TASK).extras == {REPORT: {}}


@pytest.mark.parametrize(
    ("known", "draining", "effects", "kept", "said"),
    [
        (None, False, [RunTask(attempt())], 2, []),
        (1, False, [CancelRun("t", 1), RunTask(attempt())], 2, []),
        (2, False, [], 2, []),
        (3, False, [], 3, []),
        (None, True, [], None, [{"task_id": "t", "attempt": 2, "status": "returned"}]),
        (1, True, [], None, [{"task_id": "t", "attempt": 2, "status": "returned"}]),
    ],
)
def test_an_assignment_is_run_unless_it_is_known_or_the_worker_drains(
    known: int | None, draining: bool, effects: Any, kept: int | None, said: Any
) -> None:
    state = holding(*([attempt(number=known)] if known else []))
    state.draining = draining

    step = receive(state, Action.ASSIGN_TASK, attempt())

    assert (step.effects, told(step)) == (effects, said)
    assert state.local_tasks == ({} if kept is None else {"t": attempt(number=kept)})
    assert (state.status, state.updated_at) == (
        AgentStatus.IDLE if kept is None else AgentStatus.BUSY, NOW + timedelta(seconds=2),
    )  # fmt: skip


def test_a_task_that_is_none_is_put_aside_and_its_attempt_has_failed_as_far_as_it_names_one() -> None:
    state = holding()

    step = receive(state, Action.ASSIGN_TASK, {"task_id": "bad", "attempt": 4}, 5, attempt())

    assert [(bytes(rejected.item), str(rejected.error)) for rejected in step.rejected] == [
        (b'{"task_id":"bad","attempt":4}', "a malformed task"), (b"5", "a malformed task"),
    ]  # fmt: skip
    assert [rejected.received.sender for rejected in step.rejected] == [DISTRIBUTOR, DISTRIBUTOR]
    [report] = told(step)
    error = report.pop("error")
    assert report == {"task_id": "bad", "attempt": 4, "status": "failed"}
    assert (error["type"], error["retryable"]) == ("BadTask", False)
    assert error["message"].startswith("refused by its worker: task field 'task_type'")
    assert list(state.local_tasks) == ["t"]


def test_a_cancellation_stops_the_attempt_it_names_and_no_other() -> None:
    names = [{"task_id": "t", "attempt": 2}, {"task_id": "u", "attempt": 1}, {"task_id": "gone", "attempt": 1}, 5]

    step = receive(holding(attempt("t"), attempt("u")), Action.CANCEL_TASK, *names)

    assert [rejected.received.sender for rejected in step.rejected] == [DISTRIBUTOR]
    assert step.effects == [CancelRun("t", 2)]
    assert [(bytes(rejected.item), str(rejected.error)) for rejected in step.rejected] == [
        (b"5", "this names no attempt")
    ]


@pytest.mark.parametrize(
    ("status", "done", "failed"),
    [("completed", 1, 0), ("failed", 0, 1), ("cancelled", 0, 0), ("delegated", 0, 0), ("returned", 0, 0)],
)
def test_an_outcome_is_reported_and_counted(status: Any, done: int, failed: int) -> None:
    state, step = holding(attempt("t"), attempt("u")), Step()
    state.done = state.failed = 5
    outcome = Outcome(AttemptReport(task_id="t", attempt=2, status=status, run_ms=1.5))

    rules.report(state, a_batch(events=[outcome], later_s=2), step)

    assert told(step) == [{"task_id": "t", "attempt": 2, "status": status, "run_ms": 1.5}]
    assert (state.done, state.failed, list(state.local_tasks)) == (5 + done, 5 + failed, ["u"])
    assert (state.status, state.updated_at) == (AgentStatus.BUSY, NOW + timedelta(seconds=2))


@pytest.mark.parametrize(("task_id", "number"), [("t", 1), ("t", 3), ("gone", 2)])
def test_the_outcome_of_an_attempt_that_was_superseded_says_nothing(task_id: str, number: int) -> None:
    state, step = holding(attempt()), Step()
    outcome = Outcome(AttemptReport(task_id=task_id, attempt=number, status="completed"))

    rules.report(state, a_batch(events=[outcome]), step)

    assert (told(step), state.done, list(state.local_tasks)) == ([], 0, ["t"])


def test_the_progress_of_what_runs_is_passed_on() -> None:
    step = Step()
    events = [ProgressMade("t", 2, {"fraction": 0.5}), ProgressMade("gone", 2, {})]

    rules.report(holding(attempt()), a_batch(events=events), step)

    [(sending, items)] = step.sends.items()
    assert sending == Sending(DISTRIBUTOR, Action.TASK_PROGRESS)
    assert [orjson.loads(item) for item in items] == [{"task_id": "t", "attempt": 2, "progress": {"fraction": 0.5}}]


def test_who_is_told_to_drain_takes_back_what_has_not_begun() -> None:
    state, step = holding(attempt("t"), attempt("u")), Step()

    rules.receive(state, a_batch(events=[Drain()]), step)
    rules.report(state, a_batch(events=[Withdrawn((attempt("t"),))]), step)

    assert (state.draining, step.effects, list(state.local_tasks)) == (True, [Withdraw()], ["u"])
    assert (EventType.AGENT_DRAINING, "", None, str(WORKER)) in step.events
    assert told(step) == [{"task_id": "t", "attempt": 2, "status": "returned"}]


def test_there_is_news_only_when_something_became_of_an_attempt() -> None:
    outcome = Outcome(AttemptReport(task_id="t", attempt=2, status="completed"))

    assert [rules.has_news(a_batch(events=events)) for events in ([Drain()], [Drain(), outcome])] == [False, True]
