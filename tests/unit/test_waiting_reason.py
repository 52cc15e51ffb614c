"""Where a task is and why it waits, in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.agents import Health
from core.langgraph_state import Lease
from core.overview import AgentView, Overview, health_at
from core.roles import Address, Role
from core.status_reports import Beat
from core.tasks import Task, TaskError, TaskStatus
from core.waiting_reason import waiting_reason

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
COORDINATOR = Address(Role.COORDINATOR, "c")
DISTRIBUTOR = Address(Role.DISTRIBUTOR, "d")
WORKER = Address(Role.WORKER, "w")
SKILLS = ("gpu", "task:agents.gather", "task:sum")


def an_agent(*chain: Address, health: Health = Health.ACTIVE, inbox: int = 0) -> AgentView:
    beat = Beat(capabilities=SKILLS, concurrency=1, running=1)
    return AgentView(chain, health, None, beat, 100, 0, inbox, 1, 1)


def a_hierarchy(
    coordinator: Health = Health.ACTIVE,
    distributor: Health | None = Health.ACTIVE,
    worker: Health | None = Health.ACTIVE,
    unread: int = 0,
) -> Overview:
    agents = [an_agent(COORDINATOR, health=coordinator)]
    if distributor:
        agents.append(an_agent(COORDINATOR, DISTRIBUTOR, health=distributor, inbox=unread))
    if worker:
        agents.append(an_agent(COORDINATOR, DISTRIBUTOR, WORKER, health=worker))
    return Overview("c", NOW, tuple(agents), 3, 0, 0, {})


def a_task(status: TaskStatus = TaskStatus.PENDING, **fields: Any) -> Task:
    return Task(**{"task_id": "t", "task_type": "sum", "created_at": NOW, "status": status, **fields})


UP = a_hierarchy()
HANDED_OVER = a_task(TaskStatus.IN_PROGRESS, assigned_to="d")


@pytest.mark.parametrize(
    ("task", "overview", "words"),
    [
        (None, a_hierarchy(coordinator=Health.GONE), "no coordinator is up: run `agents up`"),
        (None, a_hierarchy(coordinator=Health.SUSPECT), "the coordinator is silent"),
        (None, UP, "has not recorded it yet"),
        (a_task(), a_hierarchy(distributor=None, worker=None), "no distributor is up: run `agents up`"),
        (a_task(), a_hierarchy(distributor=Health.GONE, worker=Health.GONE), "no distributor is up"),
        (a_task(), a_hierarchy(worker=None), "no worker is up"),
        (a_task(task_type="smu"), UP, "no worker knows task type 'smu'; known: sum"),
        (a_task(capabilities=("tpu",)), UP, "has the capabilities it asks for: tpu"),
        (a_task(), UP, "it waits its turn: 3 task(s) are open, 1 running"),
        (a_task(TaskStatus.WAITING, children=("x", "y")), UP, "waits for its children: 2"),
        (a_task(TaskStatus.IN_PROGRESS, assigned_to="d", cancel_requested=True), UP, "is being cancelled"),
        (HANDED_OVER, a_hierarchy(distributor=Health.GONE), "d, which has it, is silent"),
        (HANDED_OVER, a_hierarchy(unread=2), "d has not read it yet (2"),
        (HANDED_OVER, a_hierarchy(worker=None), "no worker is up"),
        (HANDED_OVER, UP, "it waits its turn at d: all its workers are busy"),
    ],
)  # fmt: skip
def test_a_task_that_no_worker_has_yet(task: Task | None, overview: Overview, words: str) -> None:
    assert words in waiting_reason(task, None, overview)


def test_a_task_that_runs_is_where_it_runs() -> None:
    here = a_task(TaskStatus.IN_PROGRESS, assigned_to="w", attempt=2, started_at=NOW, metadata={"progress": 0.5})
    assert waiting_reason(HANDED_OVER, here, UP) == "w has had attempt 2 since 12:00:00 UTC, progress 0.5"
    assert "it drains" in waiting_reason(HANDED_OVER, here, a_hierarchy(worker=Health.DRAINING))
    assert "w, which ran attempt 2, is silent" in waiting_reason(HANDED_OVER, here, a_hierarchy(worker=Health.GONE))


def test_a_task_between_two_attempts_tells_the_last_error_and_the_next_start() -> None:
    error = TaskError(type="ValueError", message="no good", attempt=2)
    here = a_task(errors=[error], not_before=NOW + timedelta(seconds=3))
    words = "attempt 2 failed (ValueError: no good); the next one begins at 12:00:03 UTC"

    assert waiting_reason(HANDED_OVER, here, UP) == words
    assert waiting_reason(here, None, UP) == words
    assert "it waits its turn at d" in waiting_reason(HANDED_OVER, here.evolve(not_before=NOW), UP)


def test_a_task_that_is_not_to_begin_yet_tells_when() -> None:
    later = a_task(not_before=NOW + timedelta(seconds=3))
    assert waiting_reason(later, None, UP) == "it must not begin before 2026-01-01 12:00:03 UTC"


@pytest.mark.parametrize("status", [status for status in TaskStatus if status.ended])
def test_a_task_that_has_ended_waits_for_nothing(status: TaskStatus) -> None:
    assert waiting_reason(a_task(status), None, a_hierarchy(coordinator=Health.GONE)) == ""


@pytest.mark.parametrize(
    ("held", "beat", "silent_ms", "health"),
    [
        (False, Beat(), 0, Health.GONE),
        (True, None, None, Health.SUSPECT),
        (True, Beat(), 5000, Health.SUSPECT),
        (True, Beat(), 4999, Health.ACTIVE),
        (True, None, 4999, Health.ACTIVE),
        (True, Beat(draining=True), 0, Health.DRAINING),
    ],
)
def test_health_in_one_look_is_the_lease_and_the_age_of_the_heartbeat(
    held: bool, beat: Beat | None, silent_ms: int | None, health: Health
) -> None:
    lease = Lease(
        owner="worker:w",
        process="m/1/2",
        incarnation=1,
        epoch=1,
        acquired_at=NOW,
        expires_at=NOW + timedelta(seconds=10),
    )
    assert health_at(lease if held else None, beat, silent_ms, 5000) is health
