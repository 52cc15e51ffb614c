"""What a coordinator decides about tasks that delegate: children, continuations, whole trees."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.rules import recall
from coordinator.state import CoordinatorState, Sweep
from core.roles import Action, Address
from core.step import Table
from core.tasks import Task, Then, tenant_of
from tests.builders import CLIENT, DISTRIBUTOR, NOW, a_task, record, sent
from tests.coordinator_steps import (
    a_coordinator,
    alive,
    digest,
    refusals,
    result,
    submitted,
    take,
    to_me,
)


def delegated(*children: dict[str, Any], then: dict[str, Any] | None = None, **fields: Any) -> CoordinatorState:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("root", **fields)))
    take(state, result("root", "delegated", children=list(children), then=then or {"task_type": "merge", "payload": 7}))
    return state


def test_a_task_that_delegates_waits_while_its_children_are_handed_over() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("root")))

    children = [{"task_id": f"root/{n}", "task_type": "sum", "payload": n} for n in range(2)]
    step = take(state, result("root", "delegated", children=children))

    assert record(step, Table.TASKS, "root")["status"] == "waiting"
    items = sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert [(item["task_id"], item.get("payload"), item["parent_id"], item["root_id"]) for item in items] == [
        ("root/0", 0, "root", "root"),
        ("root/1", 1, "root", "root"),
    ]


def test_a_task_goes_on_as_its_continuation_when_the_last_child_has_ended() -> None:
    state = delegated({"task_id": "a", "task_type": "sum"}, {"task_id": "b", "task_type": "sum"})

    first = take(state, result("b", result=2))
    last = take(state, result("a", "failed", error={"type": "E", "message": "m"}))

    assert sent(first, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    [item] = sent(last, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert (item["task_id"], item["task_type"], item["payload"]) == ("root", "merge", 7)
    assert item["inputs"] == [["a", digest(last, "a")], ["b", digest(first, "b")]]


def test_what_a_task_has_printed_is_kept_with_its_record_over_its_continuation_and_bounded() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("root"), a_task("quiet")))
    children = [{"task_id": "a", "task_type": "sum", "output": "of its parent"}]
    take(state, result("root", "delegated", children=children, output="planned\n"))
    child = take(state, result("a"))
    whole = take(state, result("root", output="merged\n"), result("quiet"))
    long = a_coordinator(DISTRIBUTOR)
    take(long, submitted(a_task("root")))
    take(long, result("root", "delegated", children=children, output="x" * 2048))
    take(long, result("a"))

    assert record(whole, Table.TASKS, "root")["output"] == "planned\nmerged\n"
    assert record(take(long, result("root", output="end")), Table.TASKS, "root")["output"] == "x" * 2045 + "end"
    for step, silent in ((child, "a"), (whole, "quiet")):
        assert "output" not in record(step, Table.TASKS, silent)


def test_without_a_continuation_the_results_are_gathered() -> None:
    state = delegated({"task_id": "a", "task_type": "sum"}, then={"task_type": None})

    [item] = sent(take(state, result("a")), DISTRIBUTOR, Action.ASSIGN_TASK)

    assert item["task_type"] == "agents.gather"


def test_a_continuation_has_all_its_attempts_and_a_higher_fence_than_the_attempt_that_delegated() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("root")))
    children = [{"task_id": "a", "task_type": "sum"}]
    take(state, result("root", "delegated", children=children, attempt=5, retry_count=3))

    [item] = sent(take(state, result("a")), DISTRIBUTOR, Action.ASSIGN_TASK)

    assert (item["attempt"], item.get("retry_count", 0)) == (5, 0)


def test_a_continuation_that_delegates_again_sees_only_its_newest_children() -> None:
    state = delegated({"task_id": "a", "task_type": "sum"})
    take(state, result("a"))
    take(state, result("root", "delegated", children=[{"task_id": "b", "task_type": "sum"}], then={"task_type": "x"}))

    [item] = sent(take(state, result("b")), DISTRIBUTOR, Action.ASSIGN_TASK)

    assert [child for child, _ in item["inputs"]] == ["b"]
    assert state.local_tasks["root"].children == ("a", "b")


@pytest.mark.parametrize(
    ("children", "problem"),
    [
        ([{"task_id": "root", "task_type": "sum"}], "in use"),
        ([{"task_id": "a", "task_type": "sum"}] * 2, "in use"),
        ([{"task_id": "a"}], "task_type"),
        ([{"task_id": "a", "task_type": "sum", "payload": "x" * 300_000}], "payload"),
        ([{"task_id": "a", "task_type": "sum", "tenant": "others"}], "names tenant 'others'"),
    ],
)
def test_a_task_that_delegates_nonsense_fails_with_the_reason_and_none_of_its_children_run(
    children: list[Any], problem: str
) -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("root")))

    step = take(state, result("root", "delegated", children=children))

    [told] = sent(step, CLIENT, Action.TASK_RESULT)
    assert told["status"] == "failed"
    assert problem in told["error"]["message"]
    assert state.local_tasks == {}


def test_children_inherit_the_deadline_and_can_only_shorten_it() -> None:
    deadline = NOW + timedelta(seconds=60)
    state = delegated(
        {"task_id": "none", "task_type": "sum"},
        {"task_id": "later", "task_type": "sum", "deadline": "2026-01-01T13:00:00Z"},
        {"task_id": "sooner", "task_type": "sum", "deadline": "2026-01-01T12:00:10Z"},
        deadline=deadline,
    )

    deadlines = {name: state.local_tasks[name].deadline for name in ("none", "later", "sooner")}
    assert deadlines == {"none": deadline, "later": deadline, "sooner": NOW + timedelta(seconds=10)}


def test_children_are_their_parents_tenants_whether_or_not_they_say_so() -> None:
    children = [{"task_id": "a", "task_type": "sum"}, {"task_id": "b", "task_type": "sum", "tenant": "acme"}]
    state = delegated(*children, tenant="acme")
    assert [state.local_tasks[name].tenant for name in ("root", "a", "b")] == ["acme"] * 3

    state = delegated(children[0], {**children[1], "tenant": "client:client-1"})
    assert [tenant_of(state.local_tasks[name]) for name in ("root", "a", "b")] == ["client:client-1"] * 3


def test_an_id_that_is_used_again_for_a_child_is_no_longer_among_the_ended() -> None:
    state = delegated({"task_id": "root/0", "task_type": "sum"})
    take(state, result("root/0"))

    # Otherwise the sweep would one day remove the record of the open one.
    step = take(state, result("root", "delegated", children=[{"task_id": "root/0", "task_type": "sum"}]))

    assert record(step, Table.ENDED, "root/0") is None
    assert record(step, Table.TASKS, "root/0")["status"] == "in_progress"


def test_the_id_of_a_child_cannot_be_submitted() -> None:
    state = delegated({"task_id": "a", "task_type": "sum"})

    assert "in use" in refusals(take(state, submitted(a_task("a"))))[0]["reason"]


def test_the_records_of_children_are_kept_until_their_parent_has_ended() -> None:
    state = delegated({"task_id": "a", "task_type": "sum"}, then={"task_type": "merge"})
    take(state, result("a"))  # and the continuation, which will read the record, is handed over

    [sweep] = [effect for effect in take(state, later_s=3600).effects if isinstance(effect, Sweep)]
    assert "a" in sweep.keep

    take(state, result("root"))
    [sweep] = [effect for effect in take(state, later_s=7200).effects if isinstance(effect, Sweep)]
    assert sweep.keep == frozenset()


def test_a_child_cannot_take_the_id_of_a_task_that_a_client_has_submitted_and_may_read() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("root"), a_task("report")))
    ended = take(state, result("report", result=1))
    records = {"report": ended.writes[Table.TASKS, ""]["report"]}

    spawned = result("root", "delegated", children=[{"task_id": "report", "task_type": "sum"}])
    step = take(state, spawned, stored=records)

    assert record(step, Table.TASKS, "root")["status"] == "failed"
    assert "'report' is in use" in record(step, Table.TASKS, "root")["error"]["message"]
    assert "report" not in step.writes[Table.TASKS, ""]


def test_a_child_cannot_take_the_id_of_another_parents_while_that_one_will_read_its_result() -> None:
    state = delegated({"task_id": "x", "task_type": "sum"}, {"task_id": "y", "task_type": "sum"})
    ended = take(state, result("x", result="of root"))
    records = {"x": ended.writes[Table.TASKS, ""]["x"]}
    take(state, submitted(a_task("other")))
    spawned = result("other", "delegated", children=[{"task_id": "x", "task_type": "sum"}])

    refused = take(state, spawned, stored=records)
    goes_on = take(state, result("y"))

    assert "'x' is in use" in record(refused, Table.TASKS, "other")["error"]["message"]
    [item] = sent(goes_on, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert item["inputs"][0] == ["x", digest(ended, "x")]


def test_once_a_parent_has_ended_its_childrens_ids_are_free_for_another_such_as_its_replay() -> None:
    state = delegated({"task_id": "x", "task_type": "sum"})
    ended = take(state, result("x"))
    records = {"x": ended.writes[Table.TASKS, ""]["x"]}
    take(state, result("root", attempt=2))
    take(state, submitted(a_task("root.replay1")))

    take(state, result("root.replay1", "delegated", children=[{"task_id": "x", "task_type": "sum"}]), stored=records)

    assert state.local_tasks["root.replay1"].status == "waiting"
    assert state.local_tasks["x"].parent_id == "root.replay1"


@pytest.mark.parametrize("distributors", [(), (DISTRIBUTOR,)], ids=["children wait", "children run"])
def test_cancelling_a_task_that_delegated_cancels_all_below_it(distributors: tuple[Address, ...]) -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("root")))
    state.distributors["distributor-1"].in_flight.clear()
    if not distributors:
        state.distributors.clear()
    take(state, result("root", "delegated", children=[{"task_id": "root/0", "task_type": "sum"}]))

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["root"]))
    if distributors:
        assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["root/0"]
        take(state, result("root/0", "cancelled"))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert (state.local_tasks, state.families, state.digests) == ({}, {}, {})
    assert len(state.queue) == 0


def test_a_tree_of_any_depth_can_be_cancelled() -> None:
    depth = 2000
    waiting = [
        a_task(
            f"t{n}",
            status="waiting",
            children=(f"t{n + 1}",),
            then=Then(spawned=1),
            owner=str(CLIENT),
            reply_to=(str(CLIENT),) * (not n),
        )
        for n in range(depth)
    ]
    state = CoordinatorState("coordinator-1")
    recall(state, [*waiting, a_task(f"t{depth}", status="in_progress", assigned_to="distributor-1")], {}, mono_ms=0)

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t0"]))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == [f"t{depth}"]
    assert set(state.local_tasks) == {f"t{depth}"}


def test_a_task_whose_children_run_past_its_deadline_is_abandoned_and_they_are_stopped() -> None:
    state = delegated({"task_id": "a", "task_type": "sum"}, deadline=NOW + timedelta(seconds=10))

    step = take(state, later_s=10)

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["a"]
    [told] = sent(step, CLIENT, Action.TASK_RESULT)
    assert (told["status"], told["error"]["type"]) == ("abandoned", "deadline")


def test_a_coordinator_that_comes_back_goes_on_where_it_was() -> None:
    before = delegated({"task_id": "a", "task_type": "sum"}, {"task_id": "b", "task_type": "sum"})
    take(before, result("a", result=1))
    take(before, submitted(a_task("other", capabilities=("gpu",))))

    digests = dict(before.digests)
    after = CoordinatorState("coordinator-1")
    records = [Task.from_json(task.to_json()) for task in before.local_tasks.values()]
    recall(after, records, dict(digests), mono_ms=0)
    step = take(after, result("b", result=2), beats=[alive(DISTRIBUTOR, incarnation=1, capacity=100)])

    [item] = sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert (item["task_id"], item["inputs"][0]) == ("root", ["a", digests["a"]])
    assert "other" in after.queue
