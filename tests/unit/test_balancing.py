"""Who gets the next task."""

from __future__ import annotations

from collections import Counter

import pytest

from core.agents import Health, Subordinate
from core.balancing import LeastLoaded
from tests.builders import a_child

SUM = ("task:sum",)


def hand_out(children: list[Subordinate], tasks: int) -> Counter[str]:
    spread = LeastLoaded(children)
    got: Counter[str] = Counter()
    for number in range(tasks):
        child = spread.choose(SUM)
        if child is None:
            break
        child.take(f"task-{number}")
        spread.put_back(child)
        got[child.address.agent_id] += 1
    return got


def test_equal_children_get_equal_shares() -> None:
    assert hand_out([a_child("a"), a_child("b"), a_child("c")], 9) == {"a": 3, "b": 3, "c": 3}


def test_shares_follow_the_size_of_the_windows() -> None:
    assert hand_out([a_child("small", capacity=4), a_child("large", capacity=12)], 8) == {"small": 2, "large": 6}


def test_nobody_gets_more_than_fits_in_its_window() -> None:
    assert hand_out([a_child("a", capacity=2), a_child("b", capacity=3)], 100) == {"a": 2, "b": 3}


def test_the_one_with_the_smaller_share_in_use_is_next() -> None:
    busy, free = a_child("busy", capacity=10, holds=5), a_child("free", capacity=10, holds=4)

    assert LeastLoaded([busy, free]).choose(SUM) is free


def test_a_child_that_cannot_do_it_is_passed_over_and_stays_in_line_for_others() -> None:
    idle, able = a_child("idle", capabilities=("task:count",)), a_child("able", holds=3)
    spread = LeastLoaded([idle, able])

    assert spread.choose(SUM) is able
    assert spread.choose(("task:count",)) is idle


@pytest.mark.parametrize(("children", "chosen"), [(("failed", "other"), "other"), (("failed",), "failed")])
def test_a_retry_goes_elsewhere_when_there_is_an_elsewhere(children: tuple[str, ...], chosen: str) -> None:
    spread = LeastLoaded(a_child(name, holds=0 if name == "failed" else 3) for name in children)

    child = spread.choose(SUM, avoid="failed")

    assert child
    assert child.address.agent_id == chosen


def test_the_one_that_was_avoided_stays_in_line() -> None:
    spread = LeastLoaded([a_child("failed"), a_child("other", capacity=1)])
    other = spread.choose(SUM, avoid="failed")
    assert other
    other.take("t")
    spread.put_back(other)

    left = spread.choose(SUM)

    assert left
    assert left.address.agent_id == "failed"


@pytest.mark.parametrize("health", [Health.SUSPECT, Health.DRAINING, Health.GONE])
def test_a_child_that_is_not_active_gets_nothing(health: Health) -> None:
    child = a_child("a")
    child.health = health

    assert LeastLoaded([child]).choose(SUM) is None
    assert not LeastLoaded([child]).can_serve(SUM)


@pytest.mark.parametrize(
    ("needs", "somebody"), [(SUM, True), (("task:sum", "gpu"), True), (("task:sum", "tpu"), False), ((), True)]
)
def test_whether_somebody_can_serve_tells_what_choose_will_find(needs: tuple[str, ...], somebody: bool) -> None:
    spread = LeastLoaded([a_child("a", capabilities=("task:sum", "gpu")), a_child("b", capabilities=("task:sum",))])

    assert spread.can_serve(needs) is somebody
    assert (spread.choose(needs) is not None) is somebody


def test_what_must_begin_at_once_goes_to_a_child_that_has_a_slot_and_not_only_room_in_its_window() -> None:
    waits, runs = a_child("waits", concurrency=1, capacity=10, holds=1), a_child("runs", concurrency=8, holds=7)

    assert LeastLoaded([waits, runs], at_once=True).choose(SUM) is runs
    assert LeastLoaded([waits], at_once=True).choose(SUM) is None
    assert LeastLoaded([waits, runs]).choose(SUM) is waits


def test_runs_of_agents_take_no_room_of_other_tasks_and_are_counted_by_themselves() -> None:
    skills = ("task:sum", "task:chat")
    first = a_child("first", concurrency=2, agents=("chat",), agent_concurrency=3, capabilities=skills)
    second = a_child("second", concurrency=2, agents=("chat",), agent_concurrency=6, capabilities=skills)
    spread = LeastLoaded([first, second])
    got: Counter[str] = Counter()
    while (child := spread.choose(("task:chat",))) is not None:
        child.take(f"chat-{sum(got.values())}", ("task:chat",))
        spread.put_back(child, ("task:chat",))
        got[child.address.agent_id] += 1

    assert got == {"first": 3, "second": 6}
    assert not LeastLoaded([first, second]).can_serve(("task:chat",))
    assert spread.choose(SUM) is first
    first.drop("chat-0")
    assert LeastLoaded([first, second], at_once=True).choose(("task:chat",)) is first
    assert (first.free, first.room(agents=True)) == (first.window, 1)
