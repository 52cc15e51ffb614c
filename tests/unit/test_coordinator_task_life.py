"""What is recorded, told, counted and kept of a task at each turn of its life in a coordinator: whole values."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw

from coordinator import delegation, outcomes, task_life
from coordinator.state import DropThread, Sweep
from core.agent_run import RunOptions
from core.agents import Health
from core.reports import OUTPUT_LIMIT, TaskReport
from core.roles import Action
from core.step import Sending, Step, Table
from core.tasks import NULL, Task, TaskError, TaskStatus, Then
from core.trace_context import TraceContext
from tests.builders import CLIENT, DISTRIBUTOR, NOW, a_batch, a_task
from tests.coordinator_steps import handed_out, holding

S = TaskStatus
NOW_MS = int(NOW.timestamp() * 1000)
AT = NOW + timedelta(seconds=2)
LATER = a_batch(later_s=2)
EARLIER = TaskError(type="OSError", message="first", attempt=1, worker="w0")
ERROR = TaskError(type="ValueError", message="no", attempt=3, worker="w1")
LATE = TaskError(type="deadline", message="the deadline passed before it had ended", retryable=False)
TOO_MANY = TaskError(type="tree_limit", message="spawn by x: over", retryable=False)


def report(status: Any, **fields: Any) -> TaskReport:
    return TaskReport(**{"task_id": "t", "status": status, "attempt": 3, "retry_count": 2, **fields})


HAD = {"attempt": 3, "retry_count": 2}
#: What a distributor says of a task of its, how the task ends by it, and what else of its record has changed.
ENDINGS: dict[str, tuple[TaskReport, Task, TaskStatus, dict[str, Any]]] = {
    "completed": (
        report("completed", worker="w1", started_at=NOW, result_json=Raw(b"5"), output="out", errors=(EARLIER,)),
        handed_out(output="before "), S.COMPLETED,
        {**HAD, "assigned_to": "distributor-1/w1", "started_at": NOW, "result_json": Raw(b"5"), "output": "before out",
         "errors": (EARLIER,)},
    ),
    "completed, with more output than is kept": (
        report("completed", output="y" * OUTPUT_LIMIT), handed_out(output="xx"), S.COMPLETED,
        {**HAD, "output": "y" * OUTPUT_LIMIT},
    ),
    "failed": (
        report("failed", worker="w1", error=ERROR, errors=(EARLIER, ERROR)), handed_out(), S.FAILED,
        {**HAD, "assigned_to": "distributor-1/w1", "error": ERROR, "errors": (EARLIER, ERROR)},
    ),
    "abandoned": (report("abandoned", error=ERROR), handed_out(), S.ABANDONED, {**HAD, "error": ERROR}),
    "without a word of its attempts": (
        TaskReport(task_id="t", status="completed"), handed_out(attempt=4, retry_count=1, result_json=Raw(b"9")),
        S.COMPLETED, {"attempt": 4, "retry_count": 1, "result_json": NULL},
    ),
    "cancelled": (
        report("cancelled", worker="w1", started_at=NOW), handed_out(cancel_requested=True), S.CANCELLED,
        {**HAD, "assigned_to": "distributor-1/w1", "started_at": NOW, "error": None},
    ),
    "cancelled, since its deadline had passed": (
        report("cancelled"), handed_out(deadline=AT), S.ABANDONED, {**HAD, "error": LATE},
    ),
    "cancelled before its deadline": (
        report("cancelled"), handed_out(deadline=AT + timedelta(milliseconds=1)), S.CANCELLED, {**HAD, "error": None},
    ),
    "cancelled, since its tree had grown too large": (
        report("cancelled"), handed_out(error=TOO_MANY), S.FAILED, {**HAD, "error": TOO_MANY},
    ),
    "cancelled, told that its deadline had passed by a clock that was set back since": (
        report("cancelled"), handed_out(error=LATE, deadline=AT + timedelta(hours=1)), S.ABANDONED,
        {**HAD, "error": LATE},
    ),
    "come back, and was to be cancelled": (
        report("returned"), handed_out(cancel_requested=True), S.CANCELLED, {**HAD, "error": None},
    ),
    "delegated, and was to be cancelled": (
        report("delegated", children=()), handed_out(cancel_requested=True), S.CANCELLED, {**HAD, "error": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_the_end_of_a_task_is_recorded_told_and_counted_once(name: str) -> None:
    said, task, status, changed = ENDINGS[name]
    state, step = holding(task), Step()

    outcomes.conclude(state, "distributor-1", said, LATER, step)

    ended = task.evolve(**{"status": status, "updated_at": AT, "completed_at": AT, **changed})
    record = ended.to_json()
    assert step.writes[Table.TASKS, ""] == {"t": record}
    assert step.writes[Table.OPEN, ""] == {"t": None}
    assert step.writes[Table.ENDED, ""] == {"t": NOW_MS + 2000}
    assert step.writes[Table.WANTED, "distributor-1"] == {"t": None}
    assert step.sends == {Sending(CLIENT, Action.TASK_RESULT): [record]}
    assert step.changes == {"t": (status.value,)}
    assert state.counts == {status.value: 1}
    assert (state.local_tasks, state.distributors["distributor-1"].in_flight) == ({}, {})

    outcomes.conclude(state, "distributor-1", said, LATER, step)
    assert state.counts == {status.value: 1, "late_results": 1}


@pytest.mark.parametrize(("retention_s", "ended_s"), [(3600, -3538), (61, 1), (30, 2)])
def test_what_embeds_is_kept_for_a_minute_and_never_longer_than_others(retention_s: int, ended_s: int) -> None:
    step, state = Step(), holding(handed_out(task_type="agents.embed.0"), retention_ms=retention_s * 1000)

    outcomes.conclude(state, "distributor-1", report("completed"), LATER, step)

    assert step.writes[Table.ENDED, ""] == {"t": NOW_MS + ended_s * 1000}


@pytest.mark.parametrize(
    ("said", "run", "goes"),
    [
        (report("completed", thread_over=True), None, True),
        (report("completed", thread_over=True), RunOptions(), True),
        (report("completed"), None, False),
        (report("completed", thread_over=True), RunOptions(thread_id="shared"), False),
        (report("failed", error=ERROR, thread_over=True), None, False),
        (report("returned", thread_over=True), None, False),
    ],
    ids=["its own", "with options", "nothing left", "shared", "failed", "returned"],
)
def test_the_own_thread_of_a_run_goes_once_its_result_is_recorded(
    said: TaskReport, run: RunOptions | None, goes: bool
) -> None:
    late, step = Step(), Step()
    state = holding(handed_out(run=run))

    outcomes.conclude(state, "distributor-2", said, LATER, late)
    outcomes.conclude(state, "distributor-1", said, LATER, step)
    outcomes.conclude(state, "distributor-1", said, LATER, late)

    assert step.effects == ([DropThread("t")] if goes else [])
    assert late.effects == []  # what does not count lets nothing go that another attempt may need


def test_only_the_distributor_that_has_a_task_can_end_it() -> None:
    state, step = holding(handed_out()), Step()

    outcomes.conclude(state, "distributor-2", report("completed"), LATER, step)

    assert (state.counts, step.commits, list(state.local_tasks)) == ({"late_results": 1}, False, ["t"])


@pytest.mark.parametrize("stranded", [False, True])
def test_what_comes_back_waits_in_line_with_its_attempts_and_its_pause(stranded: bool) -> None:
    task = handed_out(attempt=1)
    state, step = holding(task), Step()
    pause_ends = AT + timedelta(seconds=3)
    said = report("returned", errors=(EARLIER,), not_before=pause_ends, stranded=stranded)

    outcomes.conclude(state, "distributor-1", said, LATER, step)

    again = task.evolve(
        status=S.PENDING, updated_at=AT, assigned_to=None, errors=(EARLIER,), not_before=pause_ends, **HAD
    )
    assert state.local_tasks == {"t": again}
    assert state.queue.next_wake_ms() == int(pause_ends.timestamp() * 1000)
    assert step.writes == {(Table.WANTED, "distributor-1"): {"t": None}, (Table.TASKS, ""): {"t": b""}}
    assert step.changes == {"t": ("pending",)}
    assert state.unsaved
    assert (state.distributors["distributor-1"].health is Health.ACTIVE) is stranded


def test_a_task_that_delegates_opens_its_children_and_waits_for_them() -> None:
    task = handed_out(depth=3, deadline=AT + timedelta(seconds=9), shared_with=("client:x",), children=("old",))
    state, step = holding(task), Step()
    first = a_task("t/0", deadline=AT + timedelta(seconds=5))
    children = (Raw(first.to_json()), Raw(a_task("t/1", payload=2).to_json()))
    then = Then(task_type="merge", payload_json=Raw(b"7"))

    outcomes.conclude(state, "distributor-1", report("delegated", children=children, then=then), LATER, step)

    assert state.local_tasks["t"] == task.evolve(
        status=S.WAITING, updated_at=AT, assigned_to=None, children=("old", "t/0", "t/1"),
        then=Then(task_type="merge", payload_json=Raw(b"7"), spawned=2), inputs=(), **HAD,
    )  # fmt: skip
    inherited = {
        "parent_id": "t", "root_id": "t", "depth": 4, "owner": "client:client-1", "shared_with": ("client:x",),
        "lineage": ("sum",),
        "created_at": AT,
    }  # fmt: skip
    assert state.local_tasks["t/0"] == first.evolve(**inherited)
    assert state.local_tasks["t/1"] == a_task("t/1", payload=2).evolve(**inherited, deadline=task.deadline)
    assert (state.families, state.trees, state.counts) == ({"t": {"t/0", "t/1"}}, {"t": 2}, {"accepted": 2})
    assert step.writes[Table.OPEN, ""] == {"t/0": NOW_MS + 2000, "t/1": NOW_MS + 2000}
    assert step.writes[Table.ENDED, ""] == {"t/0": None, "t/1": None}
    assert sorted(state.deadlines) == [(NOW_MS + 7000, "t/0"), (NOW_MS + 11000, "t/1")]
    assert step.changes == {"t": ("waiting",), "t/0": ("pending",), "t/1": ("pending",)}


def test_a_task_that_delegates_to_nobody_goes_on_at_once() -> None:
    task = handed_out(retry_count=2)
    state, step = holding(task), Step()

    outcomes.conclude(state, "distributor-1", report("delegated", children=()), LATER, step)

    assert state.local_tasks["t"] == task.evolve(
        status=S.PENDING, updated_at=AT, assigned_to=None, task_type="agents.gather", payload_json=Raw(b"null"),
        then=Then(), attempt=3, retry_count=0,
    )  # fmt: skip
    assert ("t" in state.queue, state.families) == (True, {})


def test_the_end_of_the_last_child_lets_its_parent_go_on_with_the_digests_of_all() -> None:
    then = Then(task_type="merge", payload_json=Raw(b"7"), spawned=2)
    parent = a_task("t").evolve(status=S.WAITING, children=("old", "t/0", "t/1"), then=then, retry_count=2, attempt=3)
    last = handed_out("t/1", parent_id="t", reply_to=())
    state, step = holding(parent, last, digests={"t/0": "d0"}, trees={"t": 1}), Step()

    outcomes.conclude(state, "distributor-1", report("completed", task_id="t/1"), LATER, step)

    digest = hashlib.sha256(bytes(step.writes[Table.TASKS, ""]["t/1"] or b"")).hexdigest()
    assert state.local_tasks == {
        "t": parent.evolve(
            status=S.PENDING, updated_at=AT, task_type="merge", payload_json=Raw(b"7"),
            inputs=(("t/0", "d0"), ("t/1", digest)), retry_count=0,
        )
    }  # fmt: skip
    assert (state.families, state.trees, state.digests) == ({}, {}, {"t/0": "d0", "t/1": digest})
    assert "t" in state.queue


@pytest.mark.parametrize(
    ("open_below", "parent", "left", "goes_on"),
    [
        ({"t/0", "t/1"}, {}, {"t/0"}, False),
        ({"t/1"}, {"cancel_requested": True}, set(), False),
        ({"t/1"}, {}, None, True),
    ],
)
def test_a_parent_waits_until_all_its_children_have_ended_and_nobody_has_asked_for_its_end(
    open_below: set[str], parent: dict[str, Any], left: set[str] | None, goes_on: bool
) -> None:
    above = a_task("t").evolve(status=S.WAITING, children=("t/0", "t/1"), then=Then(spawned=2), **parent)
    state, step = holding(above, handed_out("t/1", parent_id="t"), trees={"t": 2}), Step()
    state.families["t"] = {*open_below}

    outcomes.conclude(state, "distributor-1", report("completed", task_id="t/1"), LATER, step)

    assert ("t" in state.queue, state.families.get("t"), state.trees) == (goes_on, left, {"t": 1})


def test_a_child_whose_record_nobody_has_vouched_for_has_no_digest_and_no_tree_is_counted_below_none() -> None:
    """A restart found neither: somebody else has written to the store."""
    parent = a_task("t").evolve(status=S.WAITING, children=("t/0", "t/1"), then=Then(spawned=2))
    state = holding(parent, handed_out("t/1", parent_id="t"))

    outcomes.conclude(state, "distributor-1", report("completed", task_id="t/1"), LATER, Step())

    assert [name for name, digest in state.local_tasks["t"].inputs if digest == ""] == ["t/0"]
    assert state.trees == {}


#: What a task spawns that it may not, and what its error says.
NONSENSE: dict[str, tuple[tuple[bytes, ...], str]] = {
    "no task": ((b"[]",), "spawn: "),
    "an id twice": ((a_task("c").to_json(),) * 2, "spawn: child id 'c' is in use already; leave it out, or"),
    "the id of an open task": ((a_task("other").to_json(),), "spawn: child id 'other' is in use already"),
    "no name of a type": ((b'{"task_id":"c","task_type":"no name!"}',), "spawn: task field 'task_type'"),
    "what does not fit": ((b'{"task_id":"c","task_type":"x","payload":"%s"}' % (b"x" * 300_000),), "spawn: "),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_task_that_spawns_nonsense_fails_and_its_error_says_why(name: str) -> None:
    children, why = NONSENSE[name]
    task = handed_out(errors=(EARLIER,), attempt=3)
    state, step = holding(task, a_task("other")), Step()
    said = report("delegated", children=tuple(map(Raw, children)))

    outcomes.conclude(state, "distributor-1", said, LATER, step)

    ended = Task.from_json(bytes(step.writes[Table.TASKS, ""]["t"] or b""))
    assert ended.error
    assert ended.error.message.startswith(why)
    assert (ended.status, ended.error.type, ended.error.attempt, ended.error.retryable) == (
        S.FAILED,
        "BadTask",
        3,
        False,
    )
    assert ended.errors == (EARLIER, ended.error)
    assert list(state.local_tasks) == ["other"]


LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any], int, str]] = {
    "depth, below it": ({"max_tree_depth": 4}, {"depth": 3}, 1, ""),
    "depth, at it": (
        {"max_tree_depth": 4}, {"depth": 4}, 1,
        "children of children, 4 deep, are the most there may be (MAX_TREE_DEPTH)",
    ),
    "number, at it": ({"max_tree_tasks": 5, "trees": {"t": 3}}, {}, 2, ""),
    "number, above it": (
        {"max_tree_tasks": 5, "trees": {"t": 3}}, {}, 3,
        "3 tasks are open below the submitted one, and 3 more are over 5 (MAX_TREE_TASKS)",
    ),
    "number, of all that may be open": (
        {"max_tree_tasks": 50, "max_open_tasks": 2}, {}, 3,
        "0 tasks are open below the submitted one, and 3 more are over 2 (MAX_TREE_TASKS)",
    ),
    "number, below a task without a root": (
        {"max_tree_tasks": 5, "trees": {"t": 5}}, {"root_id": None}, 1,
        "5 tasks are open below the submitted one, and 1 more are over 5 (MAX_TREE_TASKS)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_a_tree_grows_up_to_its_limits_and_no_further(name: str) -> None:
    limits, fields, children, why = LIMITS[name]

    assert delegation.limit_reached(holding(**limits), handed_out(attempt=3, **fields), children) == why


def test_a_tree_that_is_too_large_falls_as_a_whole() -> None:
    root = a_task("r").evolve(status=S.WAITING, then=Then(spawned=1), children=("t",), root_id="r", attempt=1)
    task = handed_out(parent_id="r", root_id="r", reply_to=(), attempt=3)
    state, step = holding(root, task, max_tree_tasks=0, trees={"r": 1}), Step()
    state.families["r"] = {"t"}

    outcomes.conclude(state, "distributor-1", report("delegated", children=(Raw(a_task("c").to_json()),)), LATER, step)

    why = "spawn by t: 1 tasks are open below the submitted one, and 1 more are over 0 (MAX_TREE_TASKS)"
    problem = TaskError(type="tree_limit", message=why, attempt=3, retryable=False)
    records = {key: Task.from_json(bytes(value or b"")) for key, value in step.writes[Table.TASKS, ""].items()}
    assert {key: (task.status, task.error) for key, task in records.items()} == {
        "t": (S.FAILED, problem), "r": (S.FAILED, problem),
    }  # fmt: skip
    assert records["t"].errors == (problem,)
    assert (state.local_tasks, state.trees, state.counts) == ({}, {}, {"failed": 2})
    assert step.notes == [("tree_felled", {"task_id": "t", "root": "r"})]


#: Who has used an id before, and whether a child of "t" may have it all the same.
IDS: dict[str, tuple[dict[str, Any], bool]] = {
    "nobody": ({}, False),
    "an open task": ({"open": {}}, True),
    "a child of its own that ended": ({"ended": {"parent_id": "t"}}, False),
    "a child of its earlier attempt": ({"digests": True, "children": ("c",)}, False),
    "a child of another whose parent will read it": ({"digests": True}, True),
    "a task that was submitted": ({"ended": {}}, True),
    "a child of another": ({"ended": {"parent_id": "u"}}, True),
    "a child of the task that it replays": ({"ended": {"parent_id": "t.replay1"}}, False),
    "a child of another's replay": ({"ended": {"parent_id": "t.replay1", "owner": "client:other"}}, True),
}


@pytest.mark.parametrize("name", IDS)
def test_a_child_may_have_the_id_of_no_task_but_its_parents_own(name: str) -> None:
    used, taken = IDS[name]
    parent = handed_out(children=used.get("children", ()))
    state = holding(*([a_task("c")] if "open" in used else []), digests={"c": "d"} if "digests" in used else {})
    stored = {}
    if "ended" in used:
        ended = a_task("c").evolve(status=S.COMPLETED, **{"owner": "client:client-1", **used["ended"]})
        stored = {"c": ended.to_json()}

    assert delegation.is_taken(state, "c", parent, a_batch(stored=stored), Step()) is taken


def test_a_cancelled_tree_is_stopped_from_below_and_what_somebody_runs_is_asked_to() -> None:
    parent = a_task("t").evolve(status=S.WAITING, children=("t/0", "t/1"), then=Then(spawned=2), attempt=1)
    running, waiting = handed_out("t/0", parent_id="t"), a_task("t/1").evolve(parent_id="t")
    state, step = holding(parent, running, waiting), Step()

    task_life.cancel(state, "t", LATER, step)

    assert list(step.changes) == ["t/0", "t/1", "t"]
    assert state.local_tasks == {"t/0": running.evolve(cancel_requested=True)}
    assert step.writes[Table.WANTED, "distributor-1"] == {"t/0": b'{"want":"cancelled"}'}
    assert step.sends[Sending(DISTRIBUTOR, Action.CANCEL_TASK)] == [b'"t/0"']
    assert state.counts == {"cancelled": 2}


@pytest.mark.parametrize(("again", "asked"), [(False, False), (True, True)])
def test_who_was_asked_to_stop_is_asked_again_only_on_purpose(again: bool, asked: bool) -> None:
    state, step = holding(handed_out(cancel_requested=True)), Step()

    task_life.cancel(state, "t", LATER, step, again=again)

    assert (Sending(DISTRIBUTOR, Action.CANCEL_TASK) in step.sends) is asked


@pytest.mark.parametrize(("pause_s", "left"), [(None, None), (1, None), (2, None), (3, AT + timedelta(seconds=1))])
def test_a_task_is_handed_over_with_what_is_left_of_its_pause(pause_s: Any, left: Any) -> None:
    task = a_task("t").evolve(not_before=None if pause_s is None else NOW + timedelta(seconds=pause_s))
    state, step = holding(task), Step()

    task_life.hand_over(state, task, "distributor-1", LATER, step)

    handed = task.evolve(status=S.IN_PROGRESS, updated_at=AT, assigned_to="distributor-1", not_before=left)
    assert state.local_tasks == {"t": handed}
    assert step.writes == {
        (Table.TASKS, ""): {"t": handed.to_json()}, (Table.WANTED, "distributor-1"): {"t": b'{"want":"assigned"}'},
    }  # fmt: skip
    assert step.sends == {Sending(DISTRIBUTOR, Action.ASSIGN_TASK): [handed.to_json()]}
    assert step.changes == {"t": ("in_progress",)}
    assert list(state.distributors["distributor-1"].in_flight) == ["t"]


@pytest.mark.parametrize(("deadline_ms", "expires"), [(2000, True), (2001, False)])
def test_a_task_is_abandoned_from_its_deadline_on_and_not_before(deadline_ms: int, expires: bool) -> None:
    task = a_task("t").evolve(deadline=NOW + timedelta(milliseconds=deadline_ms))
    state, step = (
        holding(task, a_task("u"), deadlines=[(NOW_MS + 1, "u"), (NOW_MS + 2, "gone"), (NOW_MS + deadline_ms, "t")]),
        Step(),
    )

    task_life.expire(state, LATER, step)

    assert list(state.local_tasks) == (["u"] if expires else ["t", "u"])
    assert len(state.deadlines) == (0 if expires else 1)


@pytest.mark.parametrize(("due_ms", "sweeps"), [(2000, True), (2001, False)])
def test_what_has_ended_is_swept_now_and_then_but_for_what_is_still_needed(due_ms: int, sweeps: bool) -> None:
    state = holding(sweep_due_ms=NOW_MS + due_ms, digests={"c": "d"}, dead={"dead": None}, foreign=frozenset({"f"}))
    step = Step()

    task_life.expire(state, LATER, step)

    assert step.effects == ([Sweep(NOW_MS + 2000, frozenset({"c", "dead", "f"}))] if sweeps else [])
    assert state.sweep_due_ms == NOW_MS + (12_000 if sweeps else due_ms)


def test_waiting_tasks_none_of_whose_children_is_open_go_on_after_a_restart() -> None:
    alone = a_task("t").evolve(status=S.WAITING, children=("t/0",), then=Then(spawned=1))
    waits = a_task("u").evolve(status=S.WAITING, children=("u/0",), then=Then(spawned=1))
    state, step = holding(alone, waits, a_task("v"), deserted=["t", "u", "v", "gone"]), Step()
    state.families = {"u": {"u/0"}}

    task_life.expire(state, LATER, step)

    assert (state.deserted, len(state.queue), "t" in state.queue) == ([], 1, True)


def test_a_traced_task_remembers_the_type_it_began_as_through_all_that_it_goes_on_as() -> None:
    trace = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    task = a_task("t").evolve(trace=trace)
    for number in range(2):
        waiting = task.evolve(status=S.WAITING, then=Then(task_type=f"part-{number}"))
        state = holding(waiting)
        task_life.proceed(state, waiting, LATER, Step())
        task = state.local_tasks["t"]
    assert (task.task_type, task.begun_as) == ("part-1", "sum")
