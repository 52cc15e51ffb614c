"""Who gets the next task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from core.agents import Health, Subordinate
from core.balancing import Balancer
from core.candidates import Candidates
from core.status_reports import Kind
from core.strategies import Asks, Strategy, Turns, asks_of
from tests.builders import a_child, a_task

SUM = ("task:sum",)


def asks(needs: tuple[str, ...] = SUM, number: int = 0) -> Asks:
    return asks_of(a_task(f"task-{number}"))._replace(needs=needs)


def hand_out(children: list[Subordinate], tasks: int, waiting: Sequence[tuple[str, ...]] = ()) -> Counter[str]:
    spread = Balancer(children, waiting=waiting)
    got: Counter[str] = Counter()
    for number in range(tasks):
        somebody = spread.can_serve(SUM)
        child = spread.choose(asks(number=number))
        assert somebody == (child is not None)
        if child is None:
            break
        child.take(f"task-{number}", SUM)
        got[child.address.agent_id] += 1
    return got


def test_equal_children_get_equal_shares() -> None:
    assert hand_out([a_child("a"), a_child("b"), a_child("c")], 9) == {"a": 3, "b": 3, "c": 3}


def test_shares_follow_how_much_each_does_at_once() -> None:
    assert hand_out([a_child("small", concurrency=2), a_child("large", concurrency=6)], 8) == {"small": 2, "large": 6}


def test_equal_children_with_unequal_windows_get_equal_shares_as_long_as_both_have_room() -> None:
    assert hand_out([a_child("narrow", capacity=60), a_child("wide", capacity=140)], 100) == {"narrow": 50, "wide": 50}


def test_a_slot_that_idles_is_filled_before_anything_waits_anywhere() -> None:
    first, second = a_child("first", concurrency=40, capacity=80), a_child("second", concurrency=40, capacity=80)
    assert hand_out([first], 60) == {"first": 60}

    assert hand_out([first, second], 40) == {"second": 40}


def test_nobody_gets_more_than_fits_in_its_window() -> None:
    assert hand_out([a_child("a", capacity=2), a_child("b", capacity=3)], 100) == {"a": 2, "b": 3}


def test_the_one_with_the_smaller_share_in_use_is_next() -> None:
    busy, free = a_child("busy", holds=3), a_child("free", holds=2)

    assert Balancer([busy, free]).choose(asks()) is free


def test_those_who_can_do_what_waits_besides_are_spared_as_long_as_others_have_slots() -> None:
    both = ("task:other", "task:sum")
    versatile, plain = a_child("v", concurrency=4, capabilities=both), a_child("p", concurrency=2, capacity=9)
    avoided = Balancer([versatile, plain], waiting=[SUM, ("task:other",)]).choose(asks(), avoid="p")
    assert avoided is versatile

    assert hand_out([versatile, plain], 6, waiting=[SUM, ("task:other",)]) == {"p": 2, "v": 4}
    assert [*plain.in_flight] == ["task-0", "task-1"]


def test_a_spared_child_serves_when_the_others_have_no_room() -> None:
    plain, versatile = a_child("p", capacity=2), a_child("v", capabilities=(*SUM, "task:other"))
    assert hand_out([versatile, plain], 3, waiting=[SUM, ("task:other",)]) == {"p": 2, "v": 1}


def test_a_child_that_can_do_more_gets_its_share_when_nothing_waits_that_only_it_can_do() -> None:
    for waiting in ([], [SUM], [SUM, ("task:unheard-of",)]):
        versatile = a_child("v", capabilities=("task:other", "task:sum"))
        assert hand_out([versatile, a_child("p")], 4, waiting=waiting) == {"p": 2, "v": 2}


def test_a_child_that_cannot_do_it_is_passed_over_and_stays_in_line_for_others() -> None:
    idle, able = a_child("idle", capabilities=("task:count",)), a_child("able", holds=3)
    spread = Balancer([idle, able])

    assert spread.choose(asks()) is able
    assert spread.choose(asks(("task:count",))) is idle


@pytest.mark.parametrize(("children", "chosen"), [(("failed", "other"), "other"), (("failed",), "failed")])
def test_a_retry_goes_elsewhere_when_there_is_an_elsewhere(children: tuple[str, ...], chosen: str) -> None:
    spread = Balancer(a_child(name, holds=0 if name == "failed" else 3) for name in children)

    child = spread.choose(asks(), avoid="failed")

    assert child
    assert child.address.agent_id == chosen


def test_the_one_that_was_avoided_stays_in_line() -> None:
    spread = Balancer([a_child("failed"), a_child("other", capacity=1)])
    other = spread.choose(asks(), avoid="failed")
    assert other
    other.take("t", SUM)

    left = spread.choose(asks())

    assert left
    assert left.address.agent_id == "failed"


@pytest.mark.parametrize("health", [Health.SUSPECT, Health.DRAINING, Health.GONE])
def test_a_child_that_is_not_active_gets_nothing(health: Health) -> None:
    child = a_child("a")
    child.health = health

    assert Balancer([child]).choose(asks()) is None
    assert not Balancer([child]).can_serve(SUM)


@pytest.mark.parametrize(
    ("needs", "somebody"), [(SUM, True), (("task:sum", "gpu"), True), (("task:sum", "tpu"), False), ((), True)]
)
def test_whether_somebody_can_serve_tells_what_choose_will_find(needs: tuple[str, ...], somebody: bool) -> None:
    spread = Balancer([a_child("a", capabilities=("task:sum", "gpu")), a_child("b", capabilities=("task:sum",))])

    assert spread.can_serve(needs) is somebody
    assert (spread.choose(asks(needs)) is not None) is somebody


def test_what_must_begin_at_once_goes_to_a_child_that_has_a_slot_and_not_only_room_in_its_window() -> None:
    waits, runs = a_child("waits", concurrency=1, capacity=10, holds=1), a_child("runs", concurrency=8, holds=7)

    assert Balancer([waits, runs], at_once=True).choose(asks()) is runs
    assert Balancer([waits], at_once=True).choose(asks()) is None
    assert Balancer([waits]).choose(asks()) is waits


def test_runs_of_agents_take_no_room_of_other_tasks_and_are_counted_by_themselves() -> None:
    skills = ("task:sum", "task:chat")
    first = a_child("first", concurrency=2, agents=("chat",), agent_concurrency=3, capabilities=skills)
    second = a_child("second", concurrency=2, agents=("chat",), agent_concurrency=6, capabilities=skills)
    spread = Balancer([first, second])
    got: Counter[str] = Counter()
    while (child := spread.choose(asks(("task:chat",)))) is not None:
        child.take(f"chat-{sum(got.values())}", ("task:chat",))
        got[child.address.agent_id] += 1

    assert got == {"first": 3, "second": 6}
    assert not Balancer([first, second]).can_serve(("task:chat",))
    assert spread.choose(asks()) is first
    first.drop("chat-0")
    assert Balancer([first, second], at_once=True).choose(asks(("task:chat",))) is first
    assert first.has_slot(SUM)


def test_one_that_was_avoided_and_gets_a_retry_all_the_same_has_had_its_turn() -> None:
    turns = Turns()

    assert Balancer([a_child("only")], Strategy.WEIGHTED_ROUND_ROBIN, turns).choose(asks(), avoid="only")

    assert turns.last == "only"


def test_who_is_spared_follows_from_the_kinds_of_its_workers_and_not_from_their_skills_together() -> None:
    together = ("task:other", "task:sum", "gpu")
    apart = a_child(
        "a",
        capabilities=together,
        kinds=(Kind(skills=SUM, concurrency=4), Kind(skills=("gpu", "task:other"), concurrency=4)),
    )
    both = a_child("b", capabilities=together, kinds=(Kind(skills=together, concurrency=4),))

    assert Balancer([both, apart], waiting=[SUM, ("task:sum", "gpu")]).choose(asks()) is apart


def test_a_task_without_a_key_goes_by_rendezvous_to_the_child_with_the_fewest_tasks() -> None:
    children = [a_child("a", holds=2), a_child("b", holds=1), a_child("c", holds=2)]

    for number in range(10):
        chosen = Balancer(children, Strategy.RENDEZVOUS).choose(asks(number=number))
        assert chosen is children[1]


def test_a_child_without_room_for_some_tasks_stays_the_nearest_to_keys_of_others() -> None:
    children = [a_child(f"d{number}") for number in range(5)]
    ready, others = Candidates(children), Candidates(children)
    nearest = {f"key-{number}": ready.nearest(f"key-{number}") for number in range(50)}

    others.remove(children[0])

    assert {key: ready.nearest(key) for key in nearest} == nearest
    assert all(others.nearest(key) is not children[0] for key in nearest)
    assert all(others.nearest(key) is child for key, child in nearest.items() if child is not children[0])
