"""What is said, counted, shown and kept of a task at each turn of its life in a distributor: whole values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import orjson
import pytest
from msgspec import Raw
from msgspec.structs import replace

from core.dispatch_queue import Placement
from core.reports import AttemptReport
from core.roles import Action
from core.step import Step, Table, Unsealed
from core.tasks import Task, TaskError, TaskStatus, Then
from distributor import task_life
from distributor.state import DistributorState
from tests.builders import COORDINATOR, NOW, a_batch, a_task, sent

LATER = a_batch(later_s=2)
SAID = AttemptReport(
    task_id="t", attempt=3, status="completed", run_ms=41.6, started_at=NOW + timedelta(seconds=1),
    result_json=Raw(b"[5]"), output="printed",
)  # fmt: skip
ERROR = TaskError(type="ValueError", message="no", traceback="line 1")
FAILED = AttemptReport(task_id="t", attempt=3, status="failed", error=ERROR, run_ms=0.2, started_at=NOW)
EARLIER = TaskError(type="OSError", message="first", attempt=1, worker="w0")
MOVED = NOW + timedelta(seconds=2)


def running(**fields: Any) -> Task:
    """A task in its third attempt, which began at NOW."""
    return a_task(payload=[1], root_id="t", max_attempts=3).evolve(
        **{
            "status": TaskStatus.IN_PROGRESS, "attempt": 3, "retry_count": 2, "assigned_to": "w1", "started_at": NOW,
            "updated_at": NOW, "errors": (EARLIER,), **fields,
        }
    )  # fmt: skip


def holding(task: Task, **fields: Any) -> DistributorState:
    state = DistributorState("d", coordinator=COORDINATOR, **fields)
    state.local_tasks[task.task_id] = task
    return state


def said(step: Step) -> dict[str, Any]:
    [item] = sent(step, COORDINATOR, Action.TASK_RESULT)
    assert isinstance(item, dict)
    return item


def conclude(status: TaskStatus, *args: Any, **fields: Any) -> Callable[..., None]:
    def run(state: DistributorState, task: Task, step: Step) -> None:
        task_life.conclude(state, task, status, LATER, step, *args, **fields)

    return run


def fail(report: AttemptReport = FAILED) -> Callable[..., None]:
    def run(state: DistributorState, task: Task, step: Step) -> None:
        task_life.fail(state, task, "w1", report, LATER, step)

    return run


def lose(*, began: bool = True) -> Callable[..., None]:
    def run(state: DistributorState, task: Task, step: Step) -> None:
        task_life.lose(state, task, "w1", LATER, step, began=began)

    return run


def give_back(**fields: Any) -> Callable[..., None]:
    def run(state: DistributorState, task: Task, step: Step) -> None:
        task_life.give_back(state, task, LATER, step, **fields)

    return run


def told(error: TaskError) -> Any:
    return orjson.loads(msgspec.json.encode(error))


THIRD = replace(ERROR, attempt=3, worker="w1")
LOST = TaskError(type="worker_lost", message="worker w1 was gone before it reported", attempt=3, worker="w1")
DRAINED = TaskError(type="drained", message="its distributor stops, and no other has it", retryable=False)
FINAL, LATE = replace(THIRD, retryable=False), replace(THIRD, type="deadline", retryable=False)
AT_NOW, A_SECOND_ON = "2026-01-01T12:00:00Z", "2026-01-01T12:00:01Z"
NUMBERS = {"task_id": "t", "attempt": 3, "retry_count": 2}
CHILDREN = (Raw(b'{"task_id":"c"}'),)
DELEGATED = AttemptReport(task_id="t", attempt=3, status="delegated", children=CHILDREN, then=Then(task_type="merge"))

#: How a task ends here: what happens, which task it happens to, what its coordinator is told beside NUMBERS, the line
#: of the audit trail, the status that is shown.
ENDINGS: dict[str, tuple[Callable[..., None], Task, dict[str, Any], str, str]] = {
    "completed": (
        conclude(TaskStatus.COMPLETED, SAID, worker="w1"), running(),
        {"status": "completed", "worker": "w1", "run_ms": 41.6, "started_at": A_SECOND_ON, "result": [5],
         "output": "printed", "errors": [told(EARLIER)]},
        "completed w1 3 42", "completed",
    ),
    "cancelled, and nobody has said how": (
        conclude(TaskStatus.CANCELLED), running(assigned_to=None),
        {"status": "cancelled", "started_at": AT_NOW, "errors": [told(EARLIER)]}, "cancelled", "cancelled",
    ),
    "stopped where it ran": (
        conclude(TaskStatus.CANCELLED, worker="w1"), running(),
        {"status": "cancelled", "worker": "w1", "started_at": AT_NOW, "errors": [told(EARLIER)]},
        "cancelled w1 3 0", "cancelled",
    ),
    "delegated": (
        conclude(TaskStatus.WAITING, DELEGATED, worker="w1"), running(),
        {"status": "delegated", "worker": "w1", "started_at": AT_NOW, "errors": [told(EARLIER)],
         "children": [{"task_id": "c"}], "then": {"task_type": "merge", "payload": None, "spawned": 0}},
        "waiting w1 3 0", "waiting",
    ),
    "failed in its last attempt": (
        fail(), running(retry_count=3),
        {"status": "failed", "retry_count": 3, "worker": "w1", "run_ms": 0.2, "started_at": AT_NOW,
         "error": told(THIRD), "errors": [told(EARLIER), told(THIRD)]},
        "failed w1 3 0", "failed",
    ),
    "failed where no other attempt can help": (
        fail(replace(FAILED, error=replace(ERROR, retryable=False))), running(),
        {"status": "failed", "worker": "w1", "run_ms": 0.2, "started_at": AT_NOW,
         "error": told(FINAL), "errors": [told(EARLIER), told(FINAL)]},
        "failed w1 3 0", "failed",
    ),
    "failed, and was to be stopped": (
        fail(), running(cancel_requested=True),
        {"status": "cancelled", "worker": "w1", "started_at": AT_NOW, "errors": [told(EARLIER), told(THIRD)]},
        "cancelled w1 3 0", "cancelled",
    ),
    "began after its deadline": (
        fail(replace(FAILED, error=replace(ERROR, type="deadline", retryable=False))), running(),
        {"status": "abandoned", "worker": "w1", "run_ms": 0.2, "started_at": AT_NOW,
         "error": told(LATE),
         "errors": [told(EARLIER), told(LATE)]},
        "abandoned w1 3 0", "abandoned",
    ),
    "lost its worker in its last attempt": (
        lose(), running(retry_count=3),
        {"status": "abandoned", "retry_count": 3, "worker": "w1", "started_at": AT_NOW, "error": told(LOST),
         "errors": [told(EARLIER), told(LOST)]},
        "abandoned w1 3 0", "abandoned",
    ),
    "lost its worker, and was to be stopped": (
        lose(), running(cancel_requested=True),
        {"status": "cancelled", "worker": "w1", "started_at": AT_NOW, "errors": [told(EARLIER), told(LOST)]},
        "cancelled w1 3 0", "cancelled",
    ),
    "had not begun when its worker was lost, and was to be stopped": (
        lose(began=False), running(cancel_requested=True),
        {"status": "cancelled", "started_at": AT_NOW, "errors": [told(EARLIER)]},
        "cancelled w1 3 0", "cancelled",
    ),
    "its distributor's own, when that drains": (
        give_back(), running(root_id=None, assigned_to=None),
        {"status": "abandoned", "started_at": AT_NOW, "error": told(DRAINED), "errors": [told(EARLIER)]},
        "abandoned", "abandoned",
    ),
}  # fmt: skip


def lost(name: str) -> dict[str, int]:
    """What is counted besides, if a worker is lost."""
    return {"lost": 1} if "lost" in name else {}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_end_of_a_task_is_told_counted_and_shown_and_nothing_of_it_is_kept(name: str) -> None:
    happens, task, report, trail, shown = ENDINGS[name]
    state, step = holding(task, poison_suspects={"t", "other"}, last_worker={"t": "w0"}), Step()
    state.queue.push(task)

    happens(state, task, step)

    assert said(step) == {**NUMBERS, **report}
    assert step.changes == {"t": (trail,)}
    assert state.counts == {report["status"]: 1, **lost(name)}
    stored = step.writes[Table.ACTUAL, ""]["t"]
    assert isinstance(stored, Unsealed)
    assert orjson.loads(bytes(stored)) == {
        "task_id": "t", "task_type": "sum", "status": shown, "retry_count": report.get("retry_count", 2),
        "created_at": "2026-01-01T12:00:00+00:00", "updated_at": "2026-01-01T12:00:02+00:00",
        "assigned_to": task.assigned_to,
    }  # fmt: skip
    assert (state.local_tasks, state.last_worker, state.poison_suspects, state.ended) == (
        {},
        {},
        {"other"},
        {"t": None},
    )
    assert len(state.queue) == 0


#: What goes back in line: what happens, which task, what has changed of it, the line of the trail, who failed it last.
RETRIES: dict[str, tuple[Callable[..., None], Task, dict[str, Any], str, str | None]] = {
    "failed": (
        fail(), running(),
        {"errors": (EARLIER, THIRD), "error": THIRD,
         "not_before": MOVED + running().retry_delay()},
        "pending ValueError", "w1",
    ),
    "lost its worker": (
        lose(), running(),
        {"errors": (EARLIER, LOST), "error": LOST}, "pending worker_lost", "w1",
    ),
    "lost its worker, and nobody has told yet how often it may be tried": (
        lose(), running(max_attempts=None, retry_count=9),
        {"errors": (EARLIER, LOST), "error": LOST}, "pending worker_lost", "w1",
    ),
    "had not begun when its worker was lost": (lose(began=False), running(), {"retry_count": 1}, "pending", None),
}  # fmt: skip


@pytest.mark.parametrize("name", RETRIES)
def test_what_is_tried_again_waits_and_is_stored_with_what_has_become_of_it(name: str) -> None:
    happens, task, changed, trail, failed_by = RETRIES[name]
    state, step = holding(task), Step()

    happens(state, task, step)

    again = task.evolve(status=TaskStatus.PENDING, updated_at=MOVED, assigned_to=None, **changed)
    assert state.local_tasks == {"t": again}
    assert step.writes == {(Table.ACTUAL, ""): {"t": again.to_json()}}
    assert step.changes == {"t": (trail,)}
    assert state.counts == {**({"retried": 1} if failed_by else {}), **lost(name)}
    assert state.last_worker == ({"t": failed_by} if failed_by else {})
    assert "t" in state.queue
    assert not step.sends


@pytest.mark.parametrize(
    ("happens", "more"),
    [
        (give_back(), {}),
        (give_back(stranded=True), {"stranded": True}),
        (lose(began=False), {"retry_count": 1}),
    ],
)
def test_what_is_given_back_takes_its_attempts_and_its_pause_along(happens: Any, more: dict[str, Any]) -> None:
    task = running(not_before=NOW + timedelta(seconds=1))
    state, step = holding(task, draining=True, last_worker={"t": "w0"}), Step()
    state.queue.push(task)

    happens(state, task, step)

    assert said(step) == {**NUMBERS, "status": "returned", "errors": [told(EARLIER)], "not_before": A_SECOND_ON, **more}
    assert step.writes[Table.ACTUAL, ""]["t"] is None
    assert (state.local_tasks, state.last_worker, len(state.queue)) == ({}, {}, 0)
    assert state.counts == ({"lost": 1} if "retry_count" in more else {})


@pytest.mark.parametrize(
    ("suspect", "tried", "placement"),
    [
        (False, 0, Placement.ANYWHERE), (False, 2, Placement.ANYWHERE),
        (True, 0, Placement.AT_ONCE), (True, 1, Placement.AT_ONCE),
        (True, 2, Placement.ALONE), (True, 5, Placement.ALONE),
    ],
)  # fmt: skip
def test_a_task_waits_in_the_lane_that_its_deaths_so_far_allow(suspect: bool, tried: int, placement: Placement) -> None:
    task = running(retry_count=tried + 1)
    state = holding(task, poison_suspects={"t"} if suspect else set())

    task_life.requeue(state, task, LATER, Step(), retry_count=tried)

    assert [one for one in Placement if state.queue.needs(one)] == [placement]


@pytest.mark.parametrize(
    ("own", "handlers", "allowed"), [(None, None, 3), (None, 5, 5), (2, 5, 2), (2, None, 2)]
)  # fmt: skip
def test_a_task_may_be_tried_as_often_as_it_says_or_else_its_handler(own: Any, handlers: Any, allowed: int) -> None:
    state = DistributorState("d", coordinator=COORDINATOR)
    task_life.remember_attempts(state, {"sum": handlers} if handlers else {})

    assert task_life.attempts_allowed(state, running(max_attempts=own)) == allowed


def test_a_failed_attempt_tells_how_often_its_handler_may_be_tried() -> None:
    task = running(max_attempts=None, retry_count=4)
    state = holding(task)

    fail(replace(FAILED, max_attempts=5))(state, task, Step())

    assert (state.max_attempts, "t" in state.queue) == ({"sum": 5}, True)


def test_of_too_many_types_the_oldest_are_forgotten_and_no_other() -> None:
    state = DistributorState("d", coordinator=COORDINATOR)

    for number in range(task_life.MAX_TYPES + 2):
        task_life.remember_attempts(state, {f"type{number}": 1})

    assert len(state.max_attempts) == task_life.MAX_TYPES
    assert next(iter(state.max_attempts)) == "type2"


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, ""),
        ({"updated_at": MOVED}, 'progress: {"fraction":0.5}'),
        ({"updated_at": None}, ""),
        ({"started_at": None, "updated_at": MOVED}, ""),
        ({"updated_at": NOW - timedelta(seconds=1)}, ""),
        ({"updated_at": MOVED, "metadata_json": {}}, "progress: null"),
        ({"updated_at": MOVED, "metadata_json": {"progress": Raw(b"9" * 3000)}}, "progress: " + "9" * 2038),
    ],
)  # fmt: skip
def test_of_a_lost_attempt_its_last_progress_is_kept_if_it_told_any(fields: Any, output: str) -> None:
    task = running(**{"metadata_json": {"progress": Raw(b'{"fraction":0.5}')}, **fields})
    state, step = holding(task), Step()

    lose()(state, task, step)

    error = state.local_tasks["t"].error
    assert error
    assert error.output == output


@pytest.mark.parametrize("over", [True, False])
def test_that_a_run_leaves_a_thread_nobody_needs_is_passed_on(over: bool) -> None:
    task = running()
    state, step = holding(task), Step()

    conclude(TaskStatus.COMPLETED, replace(SAID, thread_over=over))(state, task, step)

    assert said(step).get("thread_over", False) is over


def test_a_task_that_ends_here_once_more_is_the_newest_that_is_shown() -> None:
    task = running()
    state, step = holding(task, ended=dict.fromkeys(["t", *(f"e{n}" for n in range(task_life.ENDED_KEPT - 1))])), Step()

    conclude(TaskStatus.COMPLETED, SAID)(state, task, step)

    assert [*state.ended][-1] == "t"
    assert step.writes[Table.ACTUAL, ""].keys() == {"t"}


def test_of_too_many_ended_tasks_the_oldest_is_no_longer_shown_unless_it_is_back() -> None:
    task = running()
    old = [f"e{n}" for n in range(task_life.ENDED_KEPT + 1)]
    state, step = holding(task, ended=dict.fromkeys(old)), Step()
    state.local_tasks["e0"] = running(task_id="e0")

    conclude(TaskStatus.COMPLETED, SAID)(state, task, step)

    assert [*state.ended] == [*old[2:], "t"]
    assert {key: value for key, value in step.writes[Table.ACTUAL, ""].items() if key != "t"} == {"e1": None}
