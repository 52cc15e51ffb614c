"""What a distributor makes of what it is told and asked: what is put aside, counted, said and kept. Whole values."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw

from core.agents import Subordinate
from core.dispatch_queue import Placement
from core.errors import MalformedMessage
from core.event_types import EventType
from core.roles import Action, Address, Role
from core.status_reports import Beat, Kind
from core.step import Drain, Sending, Step, Table
from core.tasks import Task, TaskStatus
from distributor import rules
from distributor.state import DistributorState, room
from distributor.task_life import hand_over, lose
from tests.builders import COORDINATOR, DISTRIBUTOR, NOW, WORKER, a_batch, a_task, message_to, sent

to_me = message_to(DISTRIBUTOR)
LATER = a_batch(later_s=2)
AT = NOW + timedelta(seconds=2)
WORKER_2 = Address(Role.WORKER, "worker-2")


def running(task_id: str = "t", **fields: Any) -> Task:
    return a_task(task_id).evolve(
        **{
            "status": TaskStatus.IN_PROGRESS, "root_id": task_id, "assigned_to": "worker-1", "attempt": 2,
            "retry_count": 2, "max_attempts": 9, "started_at": NOW, "updated_at": NOW, **fields,
        }
    )  # fmt: skip


def holding(*tasks: Task, workers: tuple[Address, ...] = (WORKER,), **fields: Any) -> DistributorState:
    state = DistributorState("distributor-1", coordinator=COORDINATOR, **fields)
    for address in workers:
        beat = Beat(beat=1, concurrency=4, capabilities=("task:sum",))
        worker = state.workers[address.agent_id] = Subordinate(address, 7, beat, 0)
        worker.update(beat, 0)
    for task in tasks:
        state.local_tasks[task.task_id] = task
        if task.assigned_to in state.workers:
            state.workers[task.assigned_to].take(task.task_id)
    return state


def rejected(step: Step) -> list[tuple[bytes, str]]:
    return [(bytes(rejected.item), str(rejected.error)) for rejected in step.rejected]


def senders(step: Step) -> list[Address]:
    """Of what is put aside."""
    return [rejected.received.sender for rejected in step.rejected]


def test_an_empty_assignment_is_answered_so_that_the_coordinator_knows_it_is_heard() -> None:
    step = Step()

    rules.on_assign_tasks(holding(), to_me(COORDINATOR, Action.ASSIGN_TASK), LATER, step)

    assert step.extras == {Sending(COORDINATOR, Action.TASK_RESULT): {}}


def test_a_task_that_is_none_ends_here_and_the_others_of_its_message_go_on() -> None:
    state, step = holding(), Step()
    good = a_task("good", status=TaskStatus.IN_PROGRESS, assigned_to="distributor-1", root_id="good")

    rules.on_assign_tasks(state, to_me(COORDINATOR, Action.ASSIGN_TASK, [{"task_id": "bad"}, 5, good]), LATER, step)

    assert rejected(step) == [
        (b'{"task_id":"bad"}', "a malformed task"), (b"5", "a malformed task"),
    ]  # fmt: skip
    [told] = sent(step, COORDINATOR, Action.TASK_RESULT)
    assert (told["task_id"], told["status"], told["error"]["type"], told["error"]["retryable"]) == (
        "bad", "abandoned", "BadTask", False,
    )  # fmt: skip
    assert told["error"]["message"].startswith("refused by its distributor: task field 'task_type'")
    assert state.local_tasks == {"good": good.evolve(status=TaskStatus.PENDING, assigned_to=None)}
    assert (state.fresh, state.counts, "good" in state.queue) == (["good"], {"assigned": 1}, True)


def test_a_task_that_is_here_already_is_not_assigned_again() -> None:
    state, step = holding(running()), Step()

    rules.on_assign_tasks(state, to_me(COORDINATOR, Action.ASSIGN_TASK, [running()]), LATER, step)

    assert (state.local_tasks, state.fresh, state.counts) == ({"t": running()}, [], {})


def test_what_is_to_be_cancelled_is_stopped_where_it_is() -> None:
    waits, lost = a_task("waits", root_id="waits"), running("lost", assigned_to="nobody")
    state, step = holding(running(), waits, lost), Step()

    message = to_me(COORDINATOR, Action.CANCEL_TASK, ["t", "waits", "lost", "gone", 7])

    rules.on_cancel_tasks(state, message, LATER, step)

    assert [rejected.received for rejected in step.rejected] == [message]
    assert rejected(step) == [(b"7", "this is no task id")]
    assert state.local_tasks == {"t": running(cancel_requested=True)}
    assert step.sends[Sending(WORKER, Action.CANCEL_TASK, None, 7)] == [b'{"task_id":"t","attempt":2}']
    told = sent(step, COORDINATOR, Action.TASK_RESULT)
    assert [(report["task_id"], report["status"]) for report in told] == [
        ("waits", "cancelled"), ("lost", "cancelled"), ("gone", "cancelled"),
    ]  # fmt: skip


def test_a_worker_of_which_only_its_tasks_are_known_is_told_whichever_start_of_it_lives() -> None:
    state, step = holding(running()), Step()
    state.workers["worker-1"].incarnation = 0

    rules.on_cancel_task(state, "t", LATER, step)

    assert list(step.sends) == [Sending(WORKER, Action.CANCEL_TASK, None, None)]


def results(*items: dict[str, Any], sender: Address = WORKER) -> Any:
    return to_me(sender, Action.TASK_RESULT, items)


@pytest.mark.parametrize(
    ("item", "sender"),
    [
        ({"task_id": "t", "attempt": 1, "status": "completed"}, WORKER),
        ({"task_id": "t", "attempt": 2, "status": "completed"}, WORKER_2),
        ({"task_id": "gone", "attempt": 2, "status": "completed"}, WORKER),
    ],
)
def test_an_outcome_of_anything_but_the_current_attempt_is_only_counted(item: dict[str, Any], sender: Address) -> None:
    state, step = holding(running(), workers=(WORKER, WORKER_2)), Step()

    rules.on_task_results(state, results(item, sender=sender), LATER, step)

    assert (state.counts, step.commits, list(state.workers["worker-1"].in_flight)) == (
        {"late_results": 1},
        False,
        ["t"],
    )


def test_a_result_of_a_worker_that_was_taken_for_gone_counts_as_long_as_nobody_else_has_the_task() -> None:
    state = holding(running(), workers=(WORKER, WORKER_2))
    lose(state, state.local_tasks["t"], "worker-1", LATER, Step(), began=True)
    assert state.local_tasks["t"].status is TaskStatus.PENDING

    said = {"task_id": "t", "attempt": 2, "status": "completed", "result": 5}
    for item, sender in ((said, WORKER_2), ({**said, "attempt": 1}, WORKER), ({**said, "status": "cancelled"}, WORKER)):
        rules.on_task_results(state, results(item, sender=sender), LATER, Step())
    assert (state.counts["late_results"], list(state.local_tasks)) == (3, ["t"])

    step = Step()
    rules.on_task_results(state, results(said), LATER, step)
    [told] = sent(step, COORDINATOR, Action.TASK_RESULT)
    assert (told["status"], told["result"], told["attempt"], told["worker"]) == ("completed", 5, 2, "worker-1")
    assert (state.local_tasks, "t" in state.queue) == ({}, False)

    rules.on_task_results(state, results(said), LATER, step)
    assert state.counts["late_results"] == 4


def test_a_result_of_a_worker_that_was_taken_for_gone_is_late_once_another_one_has_the_task() -> None:
    state, step = holding(running(), workers=(WORKER, WORKER_2)), Step()
    lose(state, state.local_tasks["t"], "worker-1", LATER, step, began=True)
    hand_over(state, state.local_tasks["t"], state.workers["worker-2"], LATER, step)

    rules.on_task_results(
        state, results({"task_id": "t", "attempt": 2, "status": "completed", "result": 5}), LATER, Step()
    )
    assert (state.counts["late_results"], state.local_tasks["t"].assigned_to) == (1, "worker-2")


def test_an_outcome_makes_room_and_tells_how_long_its_run_was() -> None:
    state, step = holding(running(), running("u")), Step()
    before = state.workers["worker-1"].pace.mean_run_ms

    rules.on_task_results(
        state, results({"task_id": "t", "attempt": 2, "status": "completed", "run_ms": 0}), LATER, step
    )

    worker = state.workers["worker-1"]
    assert (list(worker.in_flight), worker.pace.mean_run_ms, worker.has_room(("task:sum",))) == (
        ["u"],
        before * 0.9,
        True,
    )
    rules.on_task_results(state, results({"task_id": "u", "attempt": 2, "status": "cancelled"}), LATER, step)
    assert worker.pace.mean_run_ms == before * 0.9
    assert [report["status"] for report in sent(step, COORDINATOR, Action.TASK_RESULT)] == ["completed", "cancelled"]
    assert [report["worker"] for report in sent(step, COORDINATOR, Action.TASK_RESULT)] == ["worker-1", "worker-1"]


def test_an_attempt_that_was_given_back_does_not_count_and_its_worker_gets_nothing_new() -> None:
    state, step = holding(running()), Step()

    rules.on_task_results(state, results({"task_id": "t", "attempt": 2, "status": "returned"}), LATER, step)

    assert (state.local_tasks["t"].retry_count, state.local_tasks["t"].status) == (1, TaskStatus.PENDING)
    assert not state.workers["worker-1"].has_room(("task:sum",))
    assert (EventType.ATTEMPT_CANCELLED, "t", None, "worker-1", 2, "returned") in step.events


def test_an_outcome_counts_also_when_its_worker_is_known_no_more() -> None:
    state, step = holding(running(), workers=()), Step()

    rules.on_task_results(
        state, results({"task_id": "t", "attempt": 2, "status": "returned", "run_ms": 1}), LATER, step
    )

    assert "t" in state.queue


def test_a_report_that_breaks_its_shape_is_put_aside_and_costs_its_attempt() -> None:
    state, step = holding(running(), running("u")), Step()
    items: Any = [
        {"attempt": 2},
        {"task_id": "t", "attempt": 2, "status": "great"},
        {"task_id": "u", "attempt": 2, "status": "completed"},
    ]

    rules.on_task_results(state, results(*items), LATER, step)

    assert [json.loads(item) for item, _ in rejected(step)] == items[:2]
    assert senders(step) == [WORKER, WORKER]
    assert all(isinstance(each.error, MalformedMessage) for each in step.rejected)
    error = state.local_tasks["t"].error
    assert error
    assert (error.type, error.worker, error.attempt, error.retryable) == ("malformed_report", "worker-1", 2, True)
    assert error.message.startswith("worker worker-1 sent a malformed report: ")
    assert list(state.local_tasks) == ["t"]


def progress(*items: Any, sender: Address = WORKER) -> Any:
    return to_me(sender, Action.TASK_PROGRESS, items)


def test_the_progress_of_the_current_attempt_is_kept_beside_what_the_task_has() -> None:
    task = running(metadata_json={"mine": Raw(b"1")})
    state, step = holding(task, workers=(WORKER, WORKER_2)), Step()

    rules.on_task_progress(state, progress({"task_id": "t", "attempt": 2, "progress": {"fraction": 1}}), LATER, step)

    told = task.evolve(metadata_json={"mine": Raw(b"1"), "progress": Raw(b'{"fraction":1}')}, updated_at=AT)
    assert state.local_tasks == {"t": told}
    assert step.writes == {(Table.ACTUAL, ""): {"t": told.to_json()}}
    assert step.changes == {"t": ("in_progress worker-1 2 sum",)}


@pytest.mark.parametrize(
    ("item", "sender"),
    [
        ({"task_id": "t", "attempt": 1, "progress": {}}, WORKER),
        ({"task_id": "t", "attempt": 2, "progress": {}}, WORKER_2),
        ({"task_id": "gone", "attempt": 2, "progress": {}}, WORKER),
    ],
)
def test_progress_of_anything_else_is_passed_over(item: Any, sender: Address) -> None:
    state, step = holding(running(), workers=(WORKER, WORKER_2)), Step()

    rules.on_task_progress(state, progress(item, sender=sender), LATER, step)

    assert (step.commits, state.local_tasks) == (False, {"t": running()})


def test_progress_that_breaks_its_shape_is_put_aside_and_that_after_it_is_taken() -> None:
    state, step = holding(running()), Step()

    rules.on_task_progress(state, progress(5, {"task_id": "t", "attempt": 2, "progress": {"n": 1}}), LATER, step)

    assert [item for item, _ in rejected(step)] == [b"5"]
    assert (senders(step), isinstance(step.rejected[0].error, MalformedMessage)) == ([WORKER], True)
    assert state.local_tasks["t"].metadata == {"progress": {"n": 1}}


def test_who_drains_gives_back_what_waits_and_keeps_what_runs() -> None:
    state, step = holding(running(), a_task("waits", root_id="waits")), Step()

    rules.on_drain(state, Drain(), LATER, step)

    assert (state.draining, list(state.local_tasks)) == (True, ["t"])
    assert [report["task_id"] for report in sent(step, COORDINATOR, Action.TASK_RESULT)] == ["waits"]


@pytest.mark.parametrize(
    ("told", "now", "tells"),
    [(2, 8, True), (8, 8, False), (1000, 1000, False), (1000, 1250, False), (1000, 1252, True), (1000, 750, False),
     (1000, 748, True)],
)  # fmt: skip
def test_the_coordinator_is_told_of_its_room_when_that_has_changed_by_a_quarter(
    told: int, now: int, tells: bool
) -> None:
    state, step = holding(told_kinds=(Kind(skills=("task:sum",), capacity=told),)), Step()
    state.workers["worker-1"].learn(Beat(capacity=now // 2, capabilities=("task:sum",)))

    rules.tell_capacity(state, step)

    [room] = step.extras.values() or [None]
    assert room == (
        {"capacity": now, "capabilities": ("task:sum",), "kinds": ({"skills": ("task:sum",), "capacity": now},)}
        if tells
        else None
    )
    assert [kind.capacity for kind in state.told_kinds] == [now if tells else told]


def test_a_restarted_distributor_knows_its_tasks_its_workers_and_what_it_still_shows() -> None:
    state = DistributorState("d", coordinator=COORDINATOR)
    second, first = running("second", started_at=NOW + timedelta(seconds=1)), running("first")
    waits, unassigned = a_task("waits", created_at=NOW + timedelta(seconds=2)), running("odd", assigned_to=None)
    ended = [a_task("e").evolve(status=TaskStatus.COMPLETED), a_task("w").evolve(status=TaskStatus.WAITING)]

    rules.recall(state, [second, first, waits, unassigned, *ended], 4000)

    assert list(state.local_tasks) == ["second", "first", "waits", "odd"]
    assert list(state.ended) == ["e", "w"]
    worker = state.workers["worker-1"]
    assert (list(worker.in_flight), worker.address, worker.incarnation, worker.moved_ms, worker.beat) == (
        ["first", "second"], WORKER, 0, 4000, Beat(),
    )  # fmt: skip
    assert ("waits" in state.queue, "odd" in state.queue, len(state.queue)) == (True, True, 2)
    assert state.read_ms == 4000


@pytest.mark.parametrize(("tasks", "status", "written"), [(0, "idle", None), (1, "busy", b"busy")])
def test_a_distributor_tells_whether_it_has_work_when_that_changes(tasks: int, status: str, written: Any) -> None:
    state, step = holding(*[running()][:tasks]), Step()
    state.told_kinds = room(state).kinds

    rules.dispatch(state, LATER, step)

    assert (state.status, state.updated_at) == (status, AT)
    assert step.writes.get((Table.HEADER, ""), {}).get("status") == written


def test_what_arrived_and_waits_is_written_once() -> None:
    waits, gone = a_task("waits", task_type="x"), "gone"
    state, step = holding(waits, running(), fresh=["waits", "t", gone]), Step()
    state.queue.push(waits)

    rules.dispatch(state, LATER, step)

    assert step.writes[Table.ACTUAL, ""] == {"waits": waits.to_json()}
    assert state.fresh == []


def test_a_pause_that_is_over_ends_in_every_lane() -> None:
    state = holding(poison_suspects={"at_once", "alone"})
    for placement in Placement:
        task = a_task(placement.name.lower()).evolve(root_id="r", not_before=AT, max_attempts=9)
        state.local_tasks[task.task_id] = task
        state.queue.push(task, placement)

    early, late = Step(), Step()
    rules.dispatch(state, a_batch(later_s=1.999), early)
    rules.dispatch(state, LATER, late)

    assert sent(early, WORKER, Action.ASSIGN_TASK) == []
    assert sorted(task["task_id"] for task in sent(late, WORKER, Action.ASSIGN_TASK)) == [
        "alone", "anywhere", "at_once",
    ]  # fmt: skip


def test_of_tasks_that_another_death_would_end_no_worker_has_two() -> None:
    tasks = [a_task(name).evolve(root_id=name, max_attempts=2, retry_count=1) for name in ("a", "b", "c")]
    state = holding(*tasks, workers=(WORKER, WORKER_2), poison_suspects={"a", "b", "c"})
    for task in tasks:
        state.queue.push(task, Placement.ALONE)

    steps = [Step(), Step()]
    for step in steps:
        rules.dispatch(state, LATER, step)

    handed = [len(sent(step, worker, Action.ASSIGN_TASK)) for step in steps for worker in (WORKER, WORKER_2)]
    assert handed == [1, 1, 0, 0]
    assert len(state.queue) == 1


@pytest.mark.parametrize(
    ("worker", "known", "suspect", "goes"),
    [
        ("worker-1", True, False, True),
        ("worker-9", True, False, False),
        ("worker-1", False, False, False),
        ("worker-1", True, True, False),
    ],
)
def test_a_task_that_waits_goes_where_a_program_wants_it(worker: str, known: bool, suspect: bool, goes: bool) -> None:
    task = a_task("t", task_type="nobodys").evolve(root_id="t")
    state, step = holding(task, poison_suspects={"t"} if suspect else set()), Step()
    if known:
        state.queue.push(task)

    rules.place(state, "t", worker, LATER, step)

    assert ([task["task_id"] for task in sent(step, WORKER, Action.ASSIGN_TASK)], "t" in state.queue) == (
        ["t"] if goes else [], known and not goes,
    )  # fmt: skip
