"""What a parent knows of a child."""

from __future__ import annotations

from typing import Any, cast

import pytest

from core.agents import UNKNOWN_RUN_MS, Health, Pace, prefetch_window
from core.errors import MalformedMessage
from core.roles import Action, Role
from core.status_reports import MAX_SKILLS, Beat, Kind, status_report
from tests.builders import a_child


@pytest.mark.parametrize(
    ("silent_ms", "health"),
    [(0, Health.ACTIVE), (2499, Health.ACTIVE), (2500, Health.SUSPECT), (4999, Health.SUSPECT), (5000, Health.GONE)],
)
def test_health_follows_how_long_a_child_has_been_silent(silent_ms: int, health: Health) -> None:
    assert a_child("a", mono_ms=1000).judge(1000 + silent_ms, failure_timeout_ms=5000) is health


@pytest.mark.parametrize(("silent_ms", "health"), [(0, Health.DRAINING), (4000, Health.DRAINING), (5000, Health.GONE)])
def test_a_child_that_drains_stays_so_until_it_is_gone(silent_ms: int, health: Health) -> None:
    assert a_child("a", draining=True).judge(silent_ms, failure_timeout_ms=5000) is health


def test_a_child_that_was_suspected_is_active_again_with_its_next_heartbeat() -> None:
    child = a_child("a")
    child.health = child.judge(4000, 5000)

    child.update(Beat(beat=2, capabilities=("task:sum",)), 4000)

    assert child.health is Health.ACTIVE
    assert child.judge(4000, 5000) is Health.ACTIVE


def test_what_a_child_can_do_follows_its_latest_heartbeat() -> None:
    child = a_child("a", capabilities=("task:sum", "gpu"))
    assert child.can(("task:sum", "gpu"))

    child.update(Beat(beat=2, capabilities=("task:sum",)), 0)

    assert child.can(("task:sum",))
    assert not child.can(("task:sum", "gpu"))


@pytest.mark.parametrize(
    ("needs", "can"),
    [
        (("task:sum", "gpu"), True),
        (("task:sum", "net"), True),
        (("task:sum",), True),
        (("task:sum", "gpu", "net"), False),
    ],
)
def test_a_distributor_can_do_what_one_of_its_workers_can(needs: tuple[str, ...], can: bool) -> None:
    both = (Kind(skills=("gpu", "task:sum")), Kind(skills=("net", "task:sum")))
    child = a_child("d", role=Role.DISTRIBUTOR, capabilities=("gpu", "net", "task:sum"), kinds=both)

    assert child.can(needs) == can


def test_a_distributor_whose_workers_have_changed_can_do_what_its_latest_heartbeat_says() -> None:
    everything = ("gpu", "net", "task:sum")
    two = (Kind(skills=("gpu",)), Kind(skills=("net", "task:sum")))
    child = a_child("d", role=Role.DISTRIBUTOR, capabilities=everything, kinds=two)

    child.update(Beat(beat=2, capabilities=everything), 0)

    assert child.can(everything)


@pytest.mark.parametrize(
    ("concurrency", "mean_run_ms", "window"),
    [
        (4, UNKNOWN_RUN_MS, 16),  # nothing is known yet
        (4, 1_000_000.0, 5),  # long ones: one waits beside those that run, so that a slot never idles
        (4, 180.0, 8),  # as many again as it runs
        (4, 1.0, 724),
        (4, 0.0001, 1024),  # never more than the bound
        (0, 5.0, 0),
    ],
)
def test_a_worker_may_hold_what_it_runs_and_what_it_finishes_during_a_takeover(
    concurrency: int, mean_run_ms: float, window: int
) -> None:
    assert prefetch_window(concurrency, mean_run_ms) == window


@pytest.mark.parametrize("concurrency", [1, 64, 1024, 5000, 10_000])
@pytest.mark.parametrize("mean_run_ms", [UNKNOWN_RUN_MS, 0.01, 5.0, 1e6])
def test_a_worker_may_always_hold_at_least_what_it_runs_at_once(concurrency: int, mean_run_ms: float) -> None:
    assert prefetch_window(concurrency, mean_run_ms) >= concurrency


def test_one_task_of_no_length_after_a_restart_does_not_open_the_window_for_a_thousand() -> None:
    child = a_child("a", concurrency=8)
    before = child.window
    child.pace.ran(0.0)
    assert before <= child.window <= before + 4
    for _ in range(100):
        child.pace.ran(0.0)
    assert child.window == 1024  # that many are what it does in no time


def test_there_is_room_as_long_as_the_window_is_larger_than_what_is_in_flight() -> None:
    assert a_child("a", capacity=4, holds=3).has_room(("task:sum",))
    assert not a_child("a", capacity=3, holds=3).has_room(("task:sum",))
    assert not a_child("a", capacity=2, holds=3).has_room(("task:sum",))
    assert [a_child("a", capacity=capacity, holds=3).free for capacity in (10, 2)] == [7, 0]


#: What a child may not say of itself, by the field, and what its parent answers.
UNTRUE: dict[str, tuple[Role, Action, dict[str, Any], str]] = {
    "a wrong type": (
        Role.WORKER, Action.BEAT, {"beat": -1, "concurrency": "many"},
        "beat: expected int >= 0",
    ),
    "nothing": (Role.WORKER, Action.BEAT, cast(Any, []), "payload: expected object, got array"),
    "too many attempts in one": (
        Role.WORKER, Action.AGENT_JOINED, {"attempts": {f"t{n}": 1 for n in range(MAX_SKILLS[Role.WORKER] + 1)}},
        "attempts: expected object of length <= 1024",
    ),
    "too many skills for a worker": (
        Role.WORKER, Action.BEAT, {"capabilities": ["x"] * (MAX_SKILLS[Role.WORKER] + 1)},
        "over 1024 capabilities, or 65536 in sets",
    ),
    "too many skills in sets": (
        Role.DISTRIBUTOR, Action.CAPACITY, {"kinds": [{"skills": ["x"] * 16_384}] * 4 + [{"skills": ["x"]}]},
        "over 16384 capabilities, or 65536 in sets",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTRUE)
def test_what_a_child_says_of_itself_is_refused_beyond_its_bounds_and_the_fields_are_named(name: str) -> None:
    sender, action, payload, why = UNTRUE[name]

    with pytest.raises(MalformedMessage) as refused:
        status_report(sender, action, payload)

    assert str(refused.value) == why


@pytest.mark.parametrize(
    ("sender", "payload"),
    [
        (Role.WORKER, {"capabilities": ["x"] * MAX_SKILLS[Role.WORKER]}),
        (Role.WORKER, {"attempts": {f"t{n}": 1 for n in range(MAX_SKILLS[Role.WORKER])}}),
        (Role.DISTRIBUTOR, {"kinds": [{"skills": ["x"] * 16_384}] * 4}),
    ],
    ids=["skills", "attempts", "sets"],
)
def test_as_much_as_its_bounds_allow_is_believed(sender: Role, payload: dict[str, Any]) -> None:
    status_report(sender, Action.BEAT, payload)
    status_report(sender, Action.TASK_RESULT, {"capabilities": 1})  # says nothing of itself


def test_a_child_that_gave_a_task_back_drains_until_its_next_heartbeat_says_otherwise() -> None:
    child = a_child("a")

    child.mark_draining()

    assert (child.health, child.beat.draining, child.judge(0, 5000)) == (Health.DRAINING, True, Health.DRAINING)


def test_the_mean_duration_follows_the_latest_runs_by_a_tenth_each() -> None:
    pace = Pace(100.0)

    for run_ms in (200.0, 10.0):
        pace.ran(run_ms)

    assert pace.mean_run_ms == pytest.approx(100)  # 110 after the first


def test_a_child_drains_from_the_heartbeat_that_says_so() -> None:
    child = a_child("a")
    child.update(Beat(draining=True), 0)
    assert child.health is Health.DRAINING
