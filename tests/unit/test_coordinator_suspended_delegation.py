"""What a coordinator decides about suspended tasks that have delegated: their children, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import coordinator.delegation
from core.roles import Action
from core.tasks import TaskStatus
from tests.builders import CLIENT, DISTRIBUTOR, a_task, sent
from tests.coordinator_steps import a_coordinator, digest, result, submitted, take, to_me
from tests.suspension_steps import (
    ASKS,
    answering,
    child,
    delegation,
    handed,
    listed,
    restarted,
    suspended,
    suspension,
)


def test_a_run_that_delegates_goes_on_with_the_records_of_its_children_in_their_order() -> None:
    a, b, c = child(0), child(1), child(2)
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    asked = take(state, suspension(delegation(a, b), delegation(c, wait_id="e"), ASKS, children=[a, b, c]))

    middle = take(state, result("t/2"), result("t/1", "failed", error={"type": "E", "message": "m"}))
    last = take(state, result("t/0"))
    step = take(state, answering("yes"))

    assert [item["task_id"] for item in handed(asked)] == ["t/0", "t/1", "t/2"]
    assert {item["task_id"]: (item["parent_id"], item["lineage"]) for item in handed(asked)}["t/0"] == ("t", ["sum"])
    assert handed(last) == []
    [item] = handed(step)
    assert item["inputs"] == [
        ["t/0", digest(last, "t/0")],
        ["t/1", digest(middle, "t/1")],
        ["t/2", digest(middle, "t/2")],
    ]
    assert (item["task_type"], item["children"]) == ("sum", ["t/0", "t/1", "t/2"])
    assert all("settled_at" in wait for wait in item["waits"])


def test_a_child_that_asks_leaves_its_parent_waiting_and_is_found_at_the_root() -> None:
    state = suspended(delegation(child(0)), children=[child(0)])
    take(state, suspension(task_id="t/0"))
    take(state, submitted(a_task("other")))
    take(state, suspension(task_id="other"))

    assert [task_id for task_id, _ in listed(state, root="t")] == ["t/0"]
    assert [task_id for task_id, _ in listed(state)] == ["t/0", "other"]
    take(state, answering("yes", task_id="t/0"))
    before = state.local_tasks["t"].status
    take(state, result("t/0", attempt=2))
    assert [before, state.local_tasks["t"].status] == [TaskStatus.WAITING, TaskStatus.IN_PROGRESS]


def test_a_continuation_that_is_suspended_keeps_the_outcomes_of_its_children_beside_those_of_each_suspension() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, result("t", "delegated", children=[child(0)], then={"task_type": "merge"}))
    first = digest(take(state, result("t/0")), "t/0")
    take(state, suspension(delegation(child(1)), children=[child(1)], attempt=2))
    second = digest(take(state, result("t/1")), "t/1")
    between = state.local_tasks["t"].inputs

    take(state, suspension(attempt=3))
    successor = restarted(state)
    step = take(successor, answering("yes"))

    assert between == (("t/0", first), ("t/1", second))
    [item] = handed(step)
    assert (item["task_type"], item["inputs"]) == ("merge", [["t/0", first]])
    assert state.digests == successor.digests == {"t/0": first}


def test_a_run_that_delegates_for_many_rounds_has_a_record_that_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator.delegation, "KEPT_CHILDREN", 5)
    state = suspended(delegation(child(0), child(1)), children=[child(0), child(1)])
    for round_number in range(1, 6):
        for number in (2 * round_number - 2, 2 * round_number - 1):
            step = take(state, result(f"t/{number}"))
        spawned = 2 * round_number
        assert state.local_tasks["t"].spawned == spawned  # where those that follow are numbered from
        more = [child(spawned), child(spawned + 1)]
        take(state, suspension(delegation(*more), children=more, attempt=round_number + 1))

    [item] = handed(step)
    assert item["children"] == ["t/5", "t/6", "t/7", "t/8", "t/9"]
    assert state.local_tasks["t"].children == ("t/7", "t/8", "t/9", "t/10", "t/11")
    assert state.digests == {}
    wide = [child(number) for number in range(12, 20)]
    for number in (10, 11):
        take(state, result(f"t/{number}"))
    take(state, suspension(delegation(*wide), children=wide, attempt=7))
    waiting = state.local_tasks["t"]
    assert (waiting.awaited, len(waiting.children), waiting.spawned) == (tuple(c["task_id"] for c in wide), 8, 20)


DELEGATIONS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "itself": ([child(0, task_type="sum")], {}, "a task of type 'sum' waits for this one already (sum)"),
    "not said": ([], {}, "it waits for 't/0', and has not said what that is"),
    "in use": ([child(0, task_id="t")], {}, "child id 't' is in use already"),
    "malformed": ([{"task_id": "t/0"}], {}, "task_type"),
    "bad name": ([child(0, task_type="a b")], {}, "task_type"),
    "large": ([child(0, payload="x" * 300_000)], {}, "payload of task 't/0' has 300002 bytes"),
    "too deep": ([child(0)], {"max_tree_depth": 0}, "(MAX_TREE_DEPTH): do it yourself, or delegate less"),
}


@pytest.mark.parametrize("name", DELEGATIONS)
def test_a_delegation_that_breaks_a_rule_runs_nothing_and_the_run_goes_on_with_the_reason(name: str) -> None:
    children, fields, reason = DELEGATIONS[name]
    named = children[0]["task_id"] if children else "t/0"
    state = a_coordinator(DISTRIBUTOR, **fields)
    take(state, submitted(a_task()))

    step = take(state, suspension({"id": "d", "children": [named]}, children=children))

    [item] = handed(step)
    [wait] = item["waits"]
    assert item["task_id"] == "t"
    assert reason in wait["refused"]
    assert "children" not in wait
    assert list(state.local_tasks) == ["t"]


def test_of_two_delegations_only_the_one_that_breaks_a_rule_is_refused() -> None:
    good, bad = child(0), child(1, task_type="sum")

    state = suspended(delegation(good), delegation(good, bad, wait_id="e"), children=[good, bad])

    first, second = state.local_tasks["t"].waits
    assert (first.refused, second.refused) == (
        None,
        "child id 't/0' is in use already; leave it out, or let it begin with its parent's",
    )
    assert list(state.families["t"]) == ["t/0"]


def test_nobody_below_a_task_is_asked_to_do_what_that_does() -> None:
    state = suspended(delegation(child(0)), children=[child(0)])

    again = {"task_id": "t/0/0", "task_type": "sum"}
    step = take(state, suspension({"id": "d", "children": ["t/0/0"]}, task_id="t/0", children=[again]))

    [item] = handed(step)
    assert "a task of type 'sum' waits for this one already (sum > x)" in item["waits"][0]["refused"]


def test_who_cancels_a_task_cancels_what_it_has_delegated() -> None:
    state = suspended(delegation(child(0)), children=[child(0)])

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["t/0"]
    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
