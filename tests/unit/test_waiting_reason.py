"""Where a task is and why it waits, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.agent_run import RunOptions
from core.agents import Health
from core.overview import AgentView, Overview, health_at
from core.roles import Address, Role
from core.status_reports import Beat, Kind
from core.tasks import Task, TaskError, TaskStatus, Then
from core.waiting_reason import WaitingFor, why_waiting
from core.waits import Wait

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
COORDINATOR = Address(Role.COORDINATOR, "c")
DISTRIBUTOR = Address(Role.DISTRIBUTOR, "d")
WORKER = Address(Role.WORKER, "w")
SKILLS = ("gpu", "task:agents.gather", "task:sum")


def an_agent(*chain: Address, health: Health = Health.ACTIVE, inbox: int = 0, **beat: Any) -> AgentView:
    told = Beat(**{"capabilities": SKILLS, "concurrency": 1, "running": 1, **beat})
    return AgentView(chain, health, None, told, 100, 0, inbox, 1, 1)


def a_hierarchy(
    coordinator: Health = Health.ACTIVE,
    distributor: Health | None = Health.ACTIVE,
    worker: Health | None = Health.ACTIVE,
    unread: int = 0,
    more: tuple[AgentView, ...] = (),
) -> Overview:
    agents = [an_agent(COORDINATOR, health=coordinator, inbox=unread)]
    if distributor:
        agents.append(an_agent(COORDINATOR, DISTRIBUTOR, health=distributor, inbox=unread))
    if worker:
        agents.append(an_agent(COORDINATOR, DISTRIBUTOR, WORKER, health=worker))
    return Overview("c", NOW, (*agents, *more), 3, 0, 0, {})


def a_task(status: TaskStatus = TaskStatus.PENDING, **fields: Any) -> Task:
    return Task(**{"task_id": "t", "task_type": "sum", "created_at": NOW, "status": status, **fields})


def waiting_reason(task: Task | None, in_cell: Task | None, overview: Overview) -> str:
    """The sentence; empty for a task that has ended."""
    why = why_waiting(task, in_cell, overview)
    return "" if why.waits_for is WaitingFor.NOTHING else why.sentence


def stuck_reason(task: Task | None, in_cell: Task | None, overview: Overview) -> str:
    """The sentence, if somebody has to intervene."""
    why = why_waiting(task, in_cell, overview)
    return why.sentence if why.stuck else ""


UP = a_hierarchy()
HANDED_OVER = a_task(TaskStatus.IN_PROGRESS, assigned_to="d")
NO_COORDINATOR, NO_DISTRIBUTOR, NO_WORKER = (
    "no coordinator is up: run `agents up`",
    "no distributor is up: run `agents up`",
    "no worker is up: run `agents up`, or python -m worker",
)
SILENT = "the coordinator is silent; if it died, its successor takes over when the lease ends"
UNHEARD = "no distributor hears a worker: `agents doctor` says what to do"
UNKNOWN = "no worker knows task type 'smu'; known: sum"
KNOWS_NOTHING = an_agent(COORDINATOR, DISTRIBUTOR, WORKER, capabilities=())
#: A worker whose heartbeat has not been seen yet: it is up, but nobody knows what it can do.
UNSEEN = AgentView((COORDINATOR, DISTRIBUTOR, WORKER), Health.ACTIVE, None, None, 100, 0, 0, 1, 1)
#: Reasons that last until somebody intervenes.
STUCK = [
    (None, a_hierarchy(coordinator=Health.GONE), NO_COORDINATOR),
    (a_task(), a_hierarchy(coordinator=Health.GONE), NO_COORDINATOR),
    (None, a_hierarchy(coordinator=Health.SUSPECT), SILENT),
    (a_task(), a_hierarchy(distributor=None, worker=None), NO_DISTRIBUTOR),
    (a_task(), a_hierarchy(distributor=Health.GONE, worker=Health.GONE), NO_DISTRIBUTOR),
    (a_task(), a_hierarchy(worker=None), NO_WORKER),
    (a_task(), a_hierarchy(worker=Health.GONE), NO_WORKER),
    (a_task(), a_hierarchy(worker=None, more=(UNSEEN,)), NO_WORKER),
    (a_task(), a_hierarchy(worker=Health.UNHEARD), UNHEARD),
    (a_task(task_type="smu"), UP, UNKNOWN),
    (
        a_task(), a_hierarchy(worker=None, more=(KNOWS_NOTHING,)),
        "no worker knows task type 'sum'; known: none, start workers with --import YOUR_MODULE",
    ),
    (
        a_task(task_type="smu"),
        a_hierarchy(more=(an_agent(COORDINATOR, DISTRIBUTOR, Address(Role.WORKER, "v"), capabilities=("task:add",)),)),
        "no worker knows task type 'smu'; known: add, sum",
    ),
    (
        a_task(capabilities=("tpu", "gpu")), UP,
        "no worker that knows 'sum' has the capabilities it asks for: tpu, gpu",
    ),
    (HANDED_OVER, a_hierarchy(worker=None), NO_WORKER),
]  # fmt: skip
#: Those that pass by themselves.
PASSING = [
    (None, UP, "the coordinator has not recorded it yet (0 message(s) unread)"),
    (None, a_hierarchy(unread=2), "the coordinator has not recorded it yet (2 message(s) unread)"),
    (a_task(), UP, "it waits its turn: 3 task(s) are open, 1 running"),
    (a_task(capabilities=("gpu",)), UP, "it waits its turn: 3 task(s) are open, 1 running"),
    (
        a_task(), a_hierarchy(more=(KNOWS_NOTHING, UNSEEN)),
        "it waits its turn: 3 task(s) are open, 2 running",
    ),
    (
        a_task(TaskStatus.WAITING, task_type="smu", children=("old", "x", "y"), then=Then(spawned=2)), UP,
        "it waits for its children: 2 task(s), see `agents tasks list`",
    ),
    (
        a_task(TaskStatus.WAITING, waits=(Wait(id="q"), Wait(id="r"), Wait(id="s", settled_at=NOW))), UP,
        "it waits for answers to 2 question(s): `agents questions show t`",
    ),
    (
        a_task(TaskStatus.WAITING, waits=(Wait(id="q"), Wait(id="d", children=("t/0",)))), UP,
        "it waits for answers to 1 question(s): `agents questions show t` and for its children: 1 task(s), see `agents"
        " tasks list`",
    ),
    (a_task(TaskStatus.WAITING), UP, "it waits for nothing any more, and goes on soon"),
    (
        a_task(run=RunOptions(thread_id="T"), behind="s", task_type="smu"), UP,
        "its thread 'T' is busy: s goes first, see `agents tasks show` of that",
    ),
    (
        a_task(TaskStatus.IN_PROGRESS, assigned_to="d", cancel_requested=True), UP,
        "it is being cancelled; its worker has to stop first",
    ),
    (HANDED_OVER, a_hierarchy(unread=2), "d has not read it yet (2 message(s) unread)"),
    (HANDED_OVER, UP, "it waits its turn at d: all its workers are busy"),
]  # fmt: skip
GONE = "d, which has it, is silent; another distributor gets it, or it goes on with a restart"


@pytest.mark.parametrize(("task", "overview", "words"), [*STUCK, *PASSING])
def test_a_task_that_no_worker_has_yet(task: Task | None, overview: Overview, words: str) -> None:
    assert waiting_reason(task, None, overview) == words


@pytest.mark.parametrize("overview", [a_hierarchy(distributor=None), a_hierarchy(distributor=Health.GONE)])
def test_a_task_whose_distributor_is_gone_is_with_it_all_the_same(overview: Overview) -> None:
    assert waiting_reason(HANDED_OVER, None, overview) == GONE


@pytest.mark.parametrize(
    ("task", "overview", "words"), [*STUCK, *((task, overview, "") for task, overview, _ in PASSING)]
)
def test_only_a_task_that_waits_until_somebody_intervenes_is_stuck(
    task: Task | None, overview: Overview, words: str
) -> None:
    assert stuck_reason(task, None, overview) == words


def test_a_task_that_runs_is_where_it_runs_and_never_stuck() -> None:
    here = a_task(TaskStatus.IN_PROGRESS, assigned_to="w", attempt=2, started_at=NOW, metadata={"progress": 0.5})
    held = "w has had attempt 2 since 12:00:00 UTC"
    silent = "w, which ran attempt 2, is silent; another worker gets it soon"
    for overview, words in [
        (UP, f"{held}, progress 0.5"),
        (a_hierarchy(unread=2), f"{held}, progress 0.5"),
        (a_hierarchy(worker=Health.DRAINING), f"{held}, progress 0.5; it drains"),
        (a_hierarchy(worker=Health.GONE), silent),
        (a_hierarchy(worker=None), silent),
        # One of that name below another distributor does not have it.
        (a_hierarchy(worker=None, more=(an_agent(COORDINATOR, Address(Role.DISTRIBUTOR, "e"), WORKER),)), silent),
        (a_hierarchy(worker=None, more=(an_agent(COORDINATOR, DISTRIBUTOR, Address(Role.WORKER, "v")),)), silent),
    ]:
        assert waiting_reason(HANDED_OVER, here, overview) == words
        assert stuck_reason(HANDED_OVER, here, overview) == ""
    assert waiting_reason(HANDED_OVER, here.evolve(metadata_json={}), UP) == held
    assert waiting_reason(HANDED_OVER, here.evolve(metadata_json={}, started_at=None), UP) == (
        "w has had attempt 2 since a moment ago"
    )


def test_a_task_that_its_distributor_has_read_waits_there_whatever_else_is_unread() -> None:
    here = a_task(assigned_to=None)
    assert (
        waiting_reason(HANDED_OVER, here, a_hierarchy(unread=2)) == "it waits its turn at d: all its workers are busy"
    )
    assert stuck_reason(HANDED_OVER, here, a_hierarchy(worker=None)) == NO_WORKER


def test_a_task_between_two_attempts_tells_the_last_error_and_the_next_start() -> None:
    errors = [TaskError(type="E", message="m" * 121, attempt=attempt) for attempt in (0, 1, 2)]
    here = a_task(errors=errors, not_before=NOW + timedelta(seconds=3))
    words = f"attempt 2 failed (E: {'m' * 120}); the next one begins at 12:00:03 UTC"

    assert waiting_reason(HANDED_OVER, here, UP) == words
    assert waiting_reason(here, None, UP) == words
    assert waiting_reason(HANDED_OVER, here.evolve(not_before=NOW), UP) == PASSING[-1][2]
    assert waiting_reason(HANDED_OVER, here.evolve(not_before=None), UP) == PASSING[-1][2]


def test_a_task_that_is_not_to_begin_yet_tells_when() -> None:
    later = a_task(not_before=NOW + timedelta(seconds=3))
    assert waiting_reason(later, None, UP) == "it must not begin before 2026-01-01 12:00:03 UTC"


@pytest.mark.parametrize("status", [status for status in TaskStatus if status.ended])
def test_a_task_that_has_ended_waits_for_nothing(status: TaskStatus) -> None:
    assert waiting_reason(a_task(status), None, a_hierarchy(coordinator=Health.GONE)) == ""
    assert stuck_reason(a_task(status), None, a_hierarchy(coordinator=Health.GONE)) == ""


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
    assert health_at(held, beat, silent_ms, 5000) is health


def test_what_distributors_say_of_workers_that_were_not_looked_at_is_enough() -> None:
    kinds = (Kind(skills=SKILLS, concurrency=2), Kind(skills=("task:draw",)))  # who could draw gets nothing now
    children = {"v": {"health": "active"}, "w": {"health": "active"}, "x": {"health": "draining"}}
    top = an_agent(COORDINATOR, kinds=(), capabilities=())
    below = an_agent(COORDINATOR, DISTRIBUTOR, kinds=kinds, children=children)
    overview = Overview("c", NOW, (top, below), 3, 0, 0, {})

    assert waiting_reason(a_task(), None, overview).startswith("it waits its turn")
    assert overview.task_types == ["sum"]
    unknown = why_waiting(a_task(task_type="smu"), None, overview)
    assert (unknown.sentence, unknown.numbers) == (UNKNOWN, {"workers": 2})
    assert "no worker knows task type 'draw'" in waiting_reason(a_task(task_type="draw"), None, overview)
    assert overview.idle_workers == [(COORDINATOR, DISTRIBUTOR, Address(Role.WORKER, "x"))]
    silent = replace(overview, agents=(top, replace(below, health=Health.SUSPECT)))
    assert waiting_reason(a_task(), None, silent) == NO_DISTRIBUTOR
    assert (silent.idle_workers, silent.workers_up, silent.task_types) == ([], 0, [])
