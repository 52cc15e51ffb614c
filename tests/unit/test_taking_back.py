"""Tasks that wait at one child while another idles are taken back, and never bounce."""

from __future__ import annotations

from typing import Any

from coordinator.state import CoordinatorState
from core.agents import Health
from core.roles import Action
from core.step import Step
from core.tasks import TaskStatus
from tests.builders import COORDINATOR, DISTRIBUTOR, WORKER, a_beat, a_task, sent
from tests.coordinator_steps import OTHER, a_coordinator, alive, submitted
from tests.coordinator_steps import result as told_by_distributor
from tests.coordinator_steps import take as coordinate
from tests.distributor_steps import WORKER_2, a_distributor, assigned, handed, outcome, reports, take, to_me

ONE: dict[str, Any] = {"concurrency": 1, "capacity": 4}


def busy_and_idle() -> Any:
    """A distributor whose worker-1 has four tasks and runs one at once, and whose worker-2 has just joined."""
    state = a_distributor(WORKER, **ONE)
    take(state, assigned(*[a_task(f"t{number}") for number in range(4)]))
    take(state, beats=[a_beat(WORKER, beat=2, **ONE), a_beat(WORKER_2, **ONE)], later_s=1)
    return state


def look(state: Any, later_s: float, *messages: Any) -> Step:
    beats = [a_beat(worker, beat=int(10 * later_s), **ONE) for worker in (WORKER, WORKER_2)]
    return take(state, *messages, beats=beats, later_s=later_s)


def asked(step: Step) -> list[tuple[str, int]]:
    return [(item["task_id"], item["attempt"]) for item in sent(step, WORKER, Action.RETURN_TASK)]


def test_a_worker_that_idles_gets_what_waits_behind_a_long_task_of_another() -> None:
    state = busy_and_idle()

    first = look(state, 2)
    given = take(state, outcome("t3", "returned", asked=True), later_s=2.5)

    assert asked(first) == [("t3", 1)]
    assert handed(given, WORKER_2) == [("t3", 2)]
    assert state.workers["worker-1"].health is Health.ACTIVE
    assert state.local_tasks["t3"].retry_count == 1  # the attempt that had not begun does not count
    assert asked(look(state, 4)) == []  # nobody idles


def test_one_that_does_not_give_a_task_back_since_it_has_begun_is_not_asked_again_for_that() -> None:
    state = busy_and_idle()

    assert [asked(look(state, second)) for second in (2, 3, 4, 5)] == [[("t3", 1)], [("t2", 1)], [("t1", 1)], []]


def test_nothing_is_asked_back_while_something_waits_here_that_the_idle_one_gets() -> None:
    state = a_distributor(WORKER, **ONE)
    take(state, assigned(*[a_task(f"t{number}") for number in range(5)]))

    steps = [look(state, second) for second in (1, 2, 3)]

    assert handed(steps[0], WORKER_2) == [("t4", 1)]
    assert [asked(step) for step in steps] == [[], [], []]


def test_what_was_handed_over_since_the_last_look_stays() -> None:
    state = a_distributor(WORKER, WORKER_2, **ONE)
    take(state, assigned(a_task("a"), a_task("b")))
    look(state, 1)
    take(state, outcome("b", worker=WORKER_2), later_s=1.5)
    look(state, 2)  # worker-2 idles, and nobody has more than one

    for number in range(3):
        state.local_tasks[f"new{number}"] = task = a_task(f"new{number}").evolve(
            status=TaskStatus.IN_PROGRESS, root_id="r", assigned_to="worker-1", attempt=1
        )
        state.workers["worker-1"].take(task.task_id, ("task:sum",))

    assert asked(look(state, 3)) == []
    assert asked(look(state, 4)) == [("new2", 1)]


def test_what_the_coordinator_wants_back_goes_up_if_it_has_not_begun() -> None:
    state = a_distributor(WORKER, concurrency=1, capacity=2)
    take(state, assigned(*[a_task(f"t{number}") for number in range(3)]))

    step = take(state, to_me(COORDINATOR, Action.RETURN_TASK, ["t1", "t2", "unknown"]))
    later = take(state, outcome("t1", "returned", asked=True))

    assert [(report["task_id"], report["asked"]) for report in (*reports(step), *reports(later))] == [
        ("t2", True), ("t1", True),
    ]  # fmt: skip
    assert asked(step) == [("t1", 1)]
    assert list(state.local_tasks) == ["t0"]


def test_idle_workers_of_one_distributor_get_what_waits_at_another() -> None:
    slots = {"kinds": [{"skills": ["task:sum"], "capacity": 80, "concurrency": 40}], "capacity": 80}
    state: CoordinatorState = a_coordinator()
    coordinate(state, beats=[alive(DISTRIBUTOR, **slots)])
    coordinate(state, submitted(*[a_task(f"t{number}") for number in range(80)]))
    assert len(state.distributors["distributor-1"].in_flight) == 80

    steps = [
        coordinate(
            state,
            beats=[alive(DISTRIBUTOR, beat=second + 1, **slots), alive(OTHER, beat=second, **slots)],
            later_s=second,
        )
        for second in (1, 2)
    ]
    wanted = [sent(step, DISTRIBUTOR, Action.RETURN_TASK) for step in steps]
    given = coordinate(
        state,
        *[told_by_distributor(task_id, "returned", asked=True, attempt=0, retry_count=0) for task_id in wanted[1]],
        later_s=2.5,
    )

    assert (wanted[0], len(wanted[1])) == ([], 40)
    assert len(sent(given, OTHER, Action.ASSIGN_TASK)) == 40
    assert state.distributors["distributor-1"].health is Health.ACTIVE
