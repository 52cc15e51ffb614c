"""What is told of a task that waits, to programs: the reason, its numbers, since when, until when and the cure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from core.agent_run import RunOptions
from core.agents import Health
from core.budget import Budget, Grants, ledger_of, reserved_by_others
from core.dispatch_queue import DispatchQueue, Placement
from core.overview import Overview
from core.quotas import QuotaUse
from core.status_reports import Beat
from core.task_exclusion import SUSPECTED_MS
from core.tasks import Task, TaskError, TaskStatus
from core.waiting_counts import WaitingFor, counted, unread
from core.waiting_reason import why_waiting
from core.waits import Wait
from tests.builders import a_child
from tests.unit.test_waiting_reason import HANDED_OVER, NOW, UP, a_hierarchy, a_task

W, S = WaitingFor, TaskStatus
DRAINING = a_hierarchy(worker=Health.DRAINING)
SOON = NOW + timedelta(seconds=30)
SOON_MS = int(SOON.timestamp() * 1000)
FAILED = TaskError(type="E", message="m", attempt=1, worker="w")
LOST = TaskError(type="worker_lost", message="gone", attempt=1, worker="w")


def quota(name: str, **use: Any) -> Overview:
    return replace(UP, quotas={name: QuotaUse(**use)})


@pytest.mark.parametrize(
    ("task", "in_cell", "overview", "waits_for", "until", "stuck"),
    [
        (a_task(S.COMPLETED), None, UP, W.NOTHING, None, False),
        (None, None, a_hierarchy(coordinator=Health.SUSPECT), W.SUSPECT_FLEET, None, True),
        (None, None, UP, W.UNREAD, None, False),
        (a_task(task_type="smu"), None, UP, W.NOBODY_HAS, None, True),
        (a_task(), None, a_hierarchy(worker=Health.SUSPECT), W.SUSPECT_FLEET, None, True),
        (a_task(), None, UP, W.ALL_FULL, None, False),
        (a_task(not_before=SOON), None, UP, W.NOT_BEFORE, SOON, False),
        (a_task(not_before=SOON, errors=[FAILED]), None, UP, W.EXCLUDED_UNTIL, SOON, False),
        (a_task(S.WAITING, waits=(Wait(id="q", expires_at=SOON),)), None, UP, W.QUESTION, SOON, False),
        (a_task(S.WAITING, waits=(Wait(id="q", expires_at=SOON), Wait(id="r"))), None, UP, W.QUESTION, None, False),
        (a_task(S.WAITING, waits=(Wait(id="d", children=("c",)),)), None, UP, W.DEPENDENCY, None, False),
        (a_task(behind="s", run=RunOptions(thread_id="T")), None, UP, W.THREAD_BUSY, None, False),
        (HANDED_OVER.evolve(cancel_requested=True), None, UP, W.CANCELLING, None, False),
        (a_task(), None, quota("type:sum", in_flight=2, at_once=2, full=True), W.QUOTA, None, False),
        (a_task(), None, quota("type:sum", at_once=0, full=True), W.QUOTA, None, True),
        (a_task(tenant="a"), None, quota("tenant:a", per_minute=2, until_ms=SOON_MS), W.RATE_LIMIT, SOON, False),
        (a_task(tenant="b"), None, quota("tenant:a", per_minute=2, until_ms=SOON_MS), W.ALL_FULL, None, False),
        (a_task(), None, replace(UP, waiting={"draining": 1}, draining=True), W.DRAINING, None, False),
        (a_task(), None, replace(DRAINING, waiting={"draining": 1}), W.DRAINING, None, False),
        (HANDED_OVER, None, a_hierarchy(unread=1), W.UNREAD, None, False),
        (HANDED_OVER, None, a_hierarchy(distributor=Health.GONE), W.SUSPECT_FLEET, None, False),
        (HANDED_OVER, a_task(S.IN_PROGRESS, assigned_to="w"), UP, W.RUNNING, None, False),
        (HANDED_OVER, a_task(updated_at=NOW), UP, W.ALL_FULL, None, False),
        (
            HANDED_OVER, a_task(updated_at=NOW, errors=[LOST]), UP, W.EXCLUDED_UNTIL,
            NOW + timedelta(milliseconds=SUSPECTED_MS), False,
        ),
        (HANDED_OVER, a_task(updated_at=NOW - timedelta(days=1), errors=[LOST]), UP, W.ALL_FULL, None, False),
    ],
)  # fmt: skip
def test_a_task_that_waits_has_one_reason(
    task: Task | None, in_cell: Task | None, overview: Overview, waits_for: WaitingFor, until: Any, stuck: bool
) -> None:
    why = why_waiting(task, in_cell, overview)
    assert (why.waits_for, why.until, why.stuck) == (waits_for, until, stuck)
    assert not (stuck and not why.cure), "who has to intervene is told how"


def test_a_reason_is_told_as_json_with_its_numbers() -> None:
    why = why_waiting(a_task(), None, quota("type:sum", in_flight=2, at_once=2, full=True))
    assert why.to_dict() == {
        "waits_for": "quota",
        "sentence": "type:sum has 2 task(s) in flight, and 2 are allowed",
        "cure": "agents quotas set type:sum, or agents quotas remove type:sum",
        "stuck": False,
        "since": "2026-01-01T12:00:00+00:00",
        "until": None,
        "numbers": {"quota": "type:sum", "in_flight": 2, "at_once": 2},
    }


def a_queue() -> DispatchQueue:
    queue = DispatchQueue()
    for number, placement in enumerate(Placement):
        queue.push(a_task(task_id=f"t{number}", tenant="a"), placement)
    queue.push(a_task(task_id="other", tenant="b"))
    queue.push(a_task(task_id="odd", task_type="odd"))
    queue.push(a_task(task_id="later", not_before=SOON))
    return queue


@pytest.mark.parametrize(
    ("health", "counts"),
    [
        (Health.ACTIVE, {W.ALL_FULL: 2, W.EXCLUDED_UNTIL: 2, W.NOBODY_HAS: 1, W.NOT_BEFORE: 1}),
        (Health.SUSPECT, {W.SUSPECT_FLEET: 4, W.NOBODY_HAS: 1, W.NOT_BEFORE: 1}),
        (Health.DRAINING, {W.DRAINING: 4, W.NOBODY_HAS: 1, W.NOT_BEFORE: 1}),
        (Health.GONE, {W.NOBODY_HAS: 5, W.NOT_BEFORE: 1}),
    ],
)
def test_the_reasons_of_a_queue_are_counted_by_its_lanes(health: Health, counts: dict[WaitingFor, int]) -> None:
    child = a_child("w")
    child.health = health
    assert counted(a_queue(), [child], lambda *_: None) == counts


def test_what_is_held_back_is_counted_by_what_holds_it() -> None:
    queue = a_queue()
    queue.hold_tenant("a")

    def why_held(needs: tuple[str, ...], tenant: str) -> WaitingFor | None:
        return W.QUOTA if tenant == "a" else None

    assert counted(queue, [a_child("w")], why_held)[W.QUOTA] == 1
    assert counted(queue, [a_child("w")], lambda needs, _: W.RATE_LIMIT if needs else None)[W.RATE_LIMIT] == 5
    assert counted(queue, [a_child("w")], lambda *_: None, draining=True) == {W.DRAINING: 5, W.NOT_BEFORE: 1}


def test_what_was_handed_over_and_not_read_is_counted() -> None:
    busy, silent, new = a_child("busy", running=2, queued=1, holds=5), a_child("silent", holds=2), a_child("new")
    new.beat = Beat()
    new.take("t")

    assert unread([busy, silent, new]) == 2 + 2
    busy.drop("busy-0")
    for task_id in list(busy.in_flight)[:3]:
        busy.drop(task_id)
    assert unread([busy]) == 0, "its heartbeat tells of more than it still has"


GRANTS: Grants = (("root", Budget(tokens=100, calls=9)), ("own", Budget(tokens=50)))


@pytest.mark.parametrize(
    ("spent", "callers", "waits"),
    [
        ({"root": (1, 100, 0)}, {"other": ["root"]}, "root"),
        ({"root": (1, 90, 0)}, {"other": ["root"]}, ""),
        ({"root": (1, 100, 0)}, {}, ""),  # spent for good: its next call ends it
        ({"root": (9, 100, 0)}, {"other": ["root"]}, ""),  # likewise, since calls are not given back
        ({"root": (1, 100, 0)}, {"other": ["root"], "t": ["root"]}, ""),
        ({"root": (1, 60, 0), "own": (1, 50, 0)}, {"below": ["root", "own"]}, "own"),
    ],
)
def test_a_run_waits_for_a_budget_of_which_calls_of_others_hold_the_rest(
    spent: dict[str, tuple[int, ...]], callers: dict[str, list[str]], waits: str
) -> None:
    open_calls = {f"call-{task}": {"task": task, "ids": ids} for task, ids in callers.items()}
    ledger = ledger_of(msgspec.msgpack.encode({"spent": spent, "open": open_calls}))

    assert reserved_by_others(GRANTS, ledger, "t") == waits


def test_a_ledger_that_is_none_of_ours_says_nothing_of_who_waits() -> None:
    for wrong in ({"open": 3}, {"open": {"a": 3}}, {"open": {"a": {"ids": 3}}}):
        assert reserved_by_others(GRANTS, ledger_of(msgspec.msgpack.encode(wrong)), "t") == ""
