"""Which task is next, and why the others wait."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from core.dispatch_queue import DispatchQueue, Placement
from core.tasks import Priority
from tests.builders import NOW, a_task

NOW_MS = int(NOW.timestamp() * 1000)


def anybody(needs: tuple[str, ...]) -> bool:
    return True


def drained(queue: DispatchQueue) -> list[str]:
    order = []
    while (task_id := queue.pop(anybody)) is not None:
        order.append(task_id)
    return order


def test_tasks_of_one_priority_leave_in_the_order_they_came() -> None:
    queue = DispatchQueue()
    for name in ("first", "second", "third"):
        queue.push(a_task(name))

    assert drained(queue) == ["first", "second", "third"]


@pytest.mark.parametrize("task_types", [("sum", "sum"), ("sum", "count")], ids=["one lane", "two lanes"])
def test_a_more_urgent_task_overtakes_those_that_came_before_it(task_types: tuple[str, str]) -> None:
    queue = DispatchQueue()
    queue.push(a_task("normal", task_type=task_types[0]))
    queue.push(a_task("urgent", task_type=task_types[1], priority=Priority.URGENT))

    assert drained(queue) == ["urgent", "normal"]


def test_all_priorities_leave_in_their_order() -> None:
    queue = DispatchQueue()
    for priority in reversed(Priority):
        queue.push(a_task(priority.value, priority=priority))

    assert drained(queue) == ["urgent", "critical", "high", "normal", "low"]


@pytest.mark.parametrize(("waited_s", "first"), [(59.98, "young-urgent"), (60.02, "old-normal")])
def test_a_normal_task_that_has_waited_a_minute_longer_goes_before_an_urgent_one(waited_s: float, first: str) -> None:
    queue = DispatchQueue()
    queue.push(a_task("young-urgent", created_at=NOW, priority=Priority.URGENT))
    queue.push(a_task("old-normal", created_at=NOW - timedelta(seconds=waited_s)))

    assert queue.pop(anybody) == first


def test_a_task_nobody_can_run_holds_up_only_its_like() -> None:
    queue = DispatchQueue()
    queue.push(a_task("stuck", task_type="exotic", priority=Priority.URGENT))
    queue.push(a_task("behind-it", task_type="exotic"))
    queue.push(a_task("free"))

    assert queue.pop(lambda needs: needs == ("task:sum",)) == "free"
    assert queue.pop(lambda needs: needs == ("task:sum",)) is None
    assert queue.needs() == {("task:exotic",)}
    assert drained(queue) == ["stuck", "behind-it"]


def test_capabilities_make_a_lane_of_their_own() -> None:
    queue = DispatchQueue()
    queue.push(a_task("plain"))
    queue.push(a_task("on-gpu", capabilities=("gpu",)))

    assert queue.needs() == {("task:sum",), ("task:sum", "gpu")}


def test_a_removed_task_never_comes_out() -> None:
    queue = DispatchQueue()
    queue.push(a_task("gone"))
    queue.push(a_task("there"))

    assert queue.remove("gone") is True
    assert queue.remove("gone") is False
    assert ("gone" in queue, len(queue)) == (False, 1)
    assert drained(queue) == ["there"]


def test_a_task_that_is_pushed_twice_comes_out_once_with_its_new_place() -> None:
    queue = DispatchQueue()
    queue.push(a_task("moved", priority=Priority.LOW))
    queue.push(a_task("other"))
    queue.push(a_task("moved", priority=Priority.URGENT))

    assert drained(queue) == ["moved", "other"]


def test_a_task_that_pauses_is_not_offered_before_its_pause_is_over() -> None:
    queue = DispatchQueue()
    queue.push(a_task("later", not_before=NOW + timedelta(seconds=1)))

    assert queue.next_wake_ms() == NOW_MS + 1000
    queue.wake(NOW_MS + 999)
    assert queue.pop(anybody) is None
    queue.wake(NOW_MS + 1000)
    assert queue.pop(anybody) == "later"
    assert queue.next_wake_ms() is None


def test_a_task_removed_during_its_pause_does_not_line_up() -> None:
    queue = DispatchQueue()
    queue.push(a_task("later", not_before=NOW + timedelta(seconds=1)))
    queue.remove("later")

    queue.wake(NOW_MS + 2000)

    assert queue.pop(anybody) is None


def test_a_queue_that_was_emptied_keeps_nothing_of_what_went_through_it() -> None:
    queue = DispatchQueue()
    for number in range(100):
        queue.push(a_task(f"t{number}", not_before=NOW if number % 2 else None))
    queue.wake(NOW_MS)
    queue.remove("t7")
    drained(queue)

    assert (len(queue), queue.lanes, queue.later, queue.waiting) == (0, ({}, {}, {}), [], {})
    assert (queue.tenants, queue.weight, queue.paused) == ({}, 0, 0)


def test_tenants_take_turns_however_many_tasks_each_has() -> None:
    queue = DispatchQueue()
    for name in ("a1", "a2", "a3", "a4"):
        queue.push(a_task(name, tenant="a"))
    for name in ("b1", "b2"):
        queue.push(a_task(name).evolve(owner="b"))

    assert drained(queue) == ["a1", "b1", "a2", "b2", "a3", "a4"]


def test_a_tenant_of_three_times_the_weight_gets_three_times_as_many_turns_also_when_it_is_changed() -> None:
    queue = DispatchQueue()
    queue.weigh("a", 3)
    for number in range(12):
        queue.push(a_task(f"a{number}", tenant="a"))
        queue.push(a_task(f"b{number}", tenant="b"))

    assert Counter((queue.pop(anybody) or "")[0] for _ in range(8)) == {"a": 6, "b": 2}
    queue.weigh("a", None)
    queue.weigh("b", 3)
    assert Counter((queue.pop(anybody) or "")[0] for _ in range(8)) == {"a": 2, "b": 6}


def test_a_root_with_many_tasks_below_it_holds_up_no_other_of_its_tenant() -> None:
    queue = DispatchQueue()
    for number in range(4):
        queue.push(a_task(f"many{number}").evolve(parent_id="many", root_id="many"))
    queue.push(a_task("of-two").evolve(parent_id="two", root_id="two"))
    queue.push(a_task("submitted", task_type="count"))

    assert drained(queue) == ["many0", "of-two", "submitted", "many1", "many2", "many3"]


def test_an_urgent_task_below_a_root_overtakes_although_its_root_has_had_turns() -> None:
    queue = DispatchQueue()
    for number in range(3):
        queue.push(a_task(f"many{number}").evolve(parent_id="many", root_id="many"))
    queue.push(a_task("submitted"))
    assert queue.pop(anybody) == "many0"
    queue.push(a_task("urgent", priority=Priority.URGENT).evolve(parent_id="many", root_id="many"))

    assert drained(queue) == ["urgent", "submitted", "many1", "many2"]


def test_who_is_held_is_passed_over_until_released() -> None:
    queue = DispatchQueue()
    queue.hold_tenant("a")
    queue.held_types.add("task:count")
    for tenant in ("a", "b"):
        for task_type in ("sum", "count"):
            queue.push(a_task(f"{tenant}-{task_type}", tenant=tenant, task_type=task_type))

    assert drained(queue) == ["b-sum"]
    queue.release_tenant("a")
    assert drained(queue) == ["a-sum"]
    queue.held_types.discard("task:count")
    assert drained(queue) == ["a-count", "b-count"]


@pytest.mark.parametrize("paused", [False, True])
def test_a_task_is_offered_where_its_placement_is_and_nowhere_else(paused: bool) -> None:
    queue = DispatchQueue()
    for placement in Placement:
        queue.push(a_task(placement.name, not_before=NOW if paused else None), placement)
    queue.wake(NOW_MS)

    assert len(queue) == 3
    assert [(queue.pop(anybody, one), queue.pop(anybody, one), queue.offers(one)) for one in Placement] == [
        (one.name, None, False) for one in Placement
    ]


def test_a_task_that_is_pushed_under_another_placement_has_moved() -> None:
    queue = DispatchQueue()
    queue.push(a_task("t"))
    queue.push(a_task("t"), Placement.ALONE)

    assert (queue.pop(anybody), queue.in_lane(("task:sum",))) == (None, ["t"])
    assert (queue.needs(Placement.ANYWHERE, Placement.AT_ONCE), queue.needs()) == (set(), {("task:sum",)})
