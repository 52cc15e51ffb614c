"""What a coordinator decides."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest

from coordinator.graph import build
from coordinator.rules import recall
from coordinator.state import CoordinatorState, NotTaken, Sweep, TakenOver, TakeOver
from core.langgraph_state import AgentStatus
from core.roles import Action, Address, Role
from core.step import Call, Drain, Sending, Step, Table, run
from core.tasks import Task, TaskStatus, Then
from tests.builders import (
    CLIENT,
    COORDINATOR,
    DISTRIBUTOR,
    NOW,
    a_batch,
    a_beat,
    a_task,
    message_to,
    record,
    sent,
)

to_me = message_to(COORDINATOR)
GRAPH = build()
OTHER = Address(Role.DISTRIBUTOR, "distributor-2")
CLIENT_2 = Address(Role.CLIENT, "client-2")


def take(state: CoordinatorState, *messages: Any, **fields: Any) -> Step:
    return run(GRAPH, state, a_batch(*messages, **fields))


def a_coordinator(*distributors: Address, capacity: int = 100, **fields: Any) -> CoordinatorState:
    state = CoordinatorState("coordinator-1", **fields)
    take(state, beats=[alive(one, capacity=capacity) for one in distributors])
    return state


def alive(distributor: Address, **fields: Any) -> Any:
    """A heartbeat of a distributor whose workers know all types of these tests."""
    skills = ["task:sum", "task:merge", "task:x", "task:agents.gather"]
    return a_beat(distributor, COORDINATOR, **{"capacity": 100, "capabilities": skills, **fields})


def submitted(*tasks: Any, client: Address = CLIENT, **fields: Any) -> Any:
    return to_me(client, Action.SUBMIT_TASK, tasks, **fields)


def result(task_id: str, status: str = "completed", sender: Address = DISTRIBUTOR, **fields: Any) -> Any:
    item = {"task_id": task_id, "status": status, "attempt": 1, "retry_count": 1, **fields}
    return to_me(sender, Action.TASK_RESULT, [item])


def refusals(step: Step, client: Address = CLIENT) -> list[Any]:
    [extra] = [extra for sending, extra in step.extras.items() if sending[:2] == (client, Action.TASK_ACCEPTED)]
    return list(extra.get("refused", []))


def stored(task: Task) -> dict[str, bytes]:
    return {task.task_id: task.to_json()}


def digest(step: Step, task_id: str) -> str:
    written = step.writes[Table.TASKS, ""][task_id]
    assert isinstance(written, bytes)
    return hashlib.sha256(written).hexdigest()


# ---- submitting ----


def test_a_submitted_task_is_recorded_answered_and_handed_over_in_one_step() -> None:
    state = a_coordinator(DISTRIBUTOR)

    step = take(state, submitted(a_task("t", payload=[1, 2]), request_id="r-1"))

    assert record(step, Table.TASKS, "t")["status"] == "in_progress"
    assert record(step, Table.OPEN, "t") == int(NOW.timestamp() * 1000)
    assert record(step, Table.WANTED, "t", "distributor-1") == {"want": "assigned"}
    [item] = sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert (item["task_id"], item["payload"]) == ("t", [1, 2])
    assert Sending(CLIENT, Action.TASK_ACCEPTED, "r-1") in step.extras
    assert refusals(step) == []
    assert state.status is AgentStatus.BUSY


def test_a_task_without_anybody_to_run_it_waits_and_is_recorded_as_pending() -> None:
    state = a_coordinator()

    step = take(state, submitted(a_task()))

    assert record(step, Table.TASKS, "t").get("status", "pending") == "pending"
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert "t" in state.queue


def test_a_waiting_task_is_handed_over_when_a_distributor_comes() -> None:
    state = a_coordinator()
    take(state, submitted(a_task()))

    step = take(state, beats=[alive(DISTRIBUTOR, capacity=4)])

    assert [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)] == ["t"]


def test_no_distributor_gets_more_than_it_says_it_can_take() -> None:
    state = a_coordinator(DISTRIBUTOR, capacity=2)

    step = take(state, submitted(*[a_task(f"t{n}") for n in range(5)]))

    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == 2
    assert len(state.queue) == 3


def test_a_result_makes_room_for_the_next_task_in_the_same_step() -> None:
    state = a_coordinator(DISTRIBUTOR, capacity=1)
    take(state, submitted(a_task("t1"), a_task("t2")))

    step = take(state, result("t1"))

    assert [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)] == ["t2"]


def test_tasks_are_spread_over_the_distributors() -> None:
    state = a_coordinator(DISTRIBUTOR, OTHER)

    step = take(state, submitted(*[a_task(f"t{n}") for n in range(6)]))

    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == len(sent(step, OTHER, Action.ASSIGN_TASK)) == 3


def test_what_only_the_system_may_say_of_a_task_is_not_taken_from_a_client() -> None:
    state = a_coordinator()
    forged = a_task(
        status="completed", result="forged", attempt=9, retry_count=9, parent_id="p", root_id="q", reply_to=("x",),
        assigned_to="distributor-9", cancel_requested=True, children=("c",), inputs=(("c", "0"),),
    )  # fmt: skip

    take(state, submitted(forged))

    task = state.local_tasks["t"]
    assert (task.status, task.result, task.attempt, task.retry_count) == ("pending", None, 0, 0)
    assert (task.parent_id, task.root_id, task.reply_to) == (None, "t", ("client-1",))
    assert (task.assigned_to, task.cancel_requested, task.children, task.inputs) == (None, False, (), ())


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"task_id": "t", "task_type": "sum", "payload": "x" * 300_000}, "payload"),
        ({"task_id": "t"}, "task_type"),
        ({"task_id": "no spaces", "task_type": "sum"}, "task_id"),
        ({"task_id": "t", "task_type": "sum", "timeout_s": -1}, "timeout_s"),
        ({"task_id": "t", "task_type": "sum", "deadline": "2026-01-01T13:00:00"}, "deadline"),
        ("no task", ""),
        (None, ""),
    ],
)
def test_a_bad_task_is_refused_with_its_reason_and_nothing_of_it_is_kept(item: Any, named: str) -> None:
    state = a_coordinator(DISTRIBUTOR)

    step = take(state, submitted(item, a_task("good")))

    [refusal] = refusals(step)
    assert named in refusal["reason"]
    assert set(state.local_tasks) == {"good"}
    assert set(step.writes[Table.TASKS, ""]) == {"good"}


def test_more_tasks_than_are_admitted_are_refused_and_admitted_again_when_some_have_ended() -> None:
    state = a_coordinator(DISTRIBUTOR, max_open_tasks=2)

    step = take(state, submitted(a_task("t1"), a_task("t2"), a_task("t3")))

    assert [one["task_id"] for one in refusals(step)] == ["t3"]
    take(state, result("t1"))
    assert refusals(take(state, submitted(a_task("t3")))) == []


def test_a_coordinator_that_drains_refuses_new_tasks_and_hands_nothing_out() -> None:
    state = a_coordinator()
    take(state, submitted(a_task("old")))
    take(state, events=[Drain()])

    step = take(state, submitted(a_task("new")), beats=[alive(DISTRIBUTOR, capacity=4)])

    assert "draining" in refusals(step)[0]["reason"]
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []


# ---- one id, one task ----


def test_a_task_that_is_submitted_twice_is_one_task_and_both_clients_hear_of_its_end() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    again = take(state, submitted(a_task(), client=CLIENT_2))
    end = take(state, result("t", result=3))

    assert refusals(again, CLIENT_2) == []
    assert sent(again, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert [sent(end, one, Action.TASK_RESULT)[0]["result"] for one in (CLIENT, CLIENT_2)] == [3, 3]


def test_a_task_that_has_ended_is_told_again_and_not_run_again() -> None:
    state = a_coordinator(DISTRIBUTOR)
    ended = a_task(status=TaskStatus.COMPLETED, result=3)

    step = take(state, submitted(a_task()), stored=stored(ended))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["result"] == 3
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert state.local_tasks == {}


@pytest.mark.parametrize("other", [{"payload": 2}, {"task_type": "count"}])
@pytest.mark.parametrize("already_ended", [False, True])
def test_the_id_of_a_task_cannot_be_used_for_another(other: dict[str, Any], already_ended: bool) -> None:
    state = a_coordinator(DISTRIBUTOR)
    first = a_task(payload=1)
    if not already_ended:
        take(state, submitted(first))

    step = take(
        state,
        submitted(a_task(**{"payload": 1, **other})),
        stored=stored(first.evolve(status=TaskStatus.COMPLETED)) if already_ended else {},
    )

    assert "in use for another task" in refusals(step)[0]["reason"]
    assert sent(step, CLIENT, Action.TASK_RESULT) == []


@pytest.mark.parametrize("action", [Action.SUBMIT_TASK, Action.WATCH_TASK, Action.CANCEL_TASK])
def test_a_task_that_ends_in_the_same_step_is_known_to_who_asks_for_it_in_that_step(action: Action) -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    item = a_task() if action is Action.SUBMIT_TASK else "t"

    # It was open when records were looked up for this batch, so its record is not in `stored`.
    step = take(state, result("t", result=3), to_me(CLIENT_2, action, [item]))

    assert refusals(step, CLIENT_2) == []
    assert state.local_tasks == {}
    told = sent(step, CLIENT_2, Action.TASK_RESULT)
    assert [one["result"] for one in told] == ([] if action is Action.CANCEL_TASK else [3])


# ---- results ----


def test_a_result_is_recorded_taken_off_the_open_ones_and_told() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, result("t", result={"n": 3}, worker="worker-1"), later_s=2)

    task = record(step, Table.TASKS, "t")
    assert (task["status"], task["result"], task["retry_count"]) == ("completed", {"n": 3}, 1)
    assert task["assigned_to"] == "distributor-1/worker-1"
    assert record(step, Table.OPEN, "t") is None
    assert record(step, Table.ENDED, "t") == int(NOW.timestamp() * 1000) + 2000
    assert record(step, Table.WANTED, "t", "distributor-1") is None
    assert sent(step, CLIENT, Action.TASK_RESULT) == [task]
    assert state.status is AgentStatus.IDLE


def test_a_failure_is_recorded_with_its_error() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, result("t", "failed", error={"type": "ValueError", "message": "no", "traceback": "tb"}))

    error = record(step, Table.TASKS, "t")["error"]
    assert (error["type"], error["message"], error["traceback"]) == ("ValueError", "no", "tb")


def test_the_end_of_a_task_counts_once() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, result("t", result=1))

    step = take(state, result("t", result=2))

    assert not step.commits
    assert state.counts["late_results"] == 1


def test_a_result_from_a_distributor_that_does_not_have_the_task_counts_for_nothing() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, result("t", result="forged", sender=OTHER))

    assert not step.commits
    assert state.local_tasks["t"].status == "in_progress"


def test_a_task_that_comes_back_goes_to_another_distributor_with_the_attempts_it_has_had() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, beats=[alive(OTHER, capacity=100)])

    step = take(state, result("t", "returned", attempt=3, retry_count=2))

    [item] = sent(step, OTHER, Action.ASSIGN_TASK)
    assert (item["attempt"], item["retry_count"]) == (3, 2)
    assert record(step, Table.WANTED, "t", "distributor-1") is None
    assert record(step, Table.WANTED, "t", "distributor-2") == {"want": "assigned"}


# ---- cancelling ----


def test_a_task_that_waits_is_cancelled_at_once() -> None:
    state = a_coordinator()
    take(state, submitted(a_task()))

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert refusals(step) == []
    assert "t" not in state.queue


def test_the_cancellation_of_a_task_that_runs_is_passed_down_once_and_its_end_awaited() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))
    again = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))
    end = take(state, result("t", "cancelled"))

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["t"]
    assert record(step, Table.WANTED, "t", "distributor-1") == {"want": "cancelled"}
    assert record(step, Table.TASKS, "t")["cancel_requested"] is True
    assert sent(again, DISTRIBUTOR, Action.CANCEL_TASK) == []
    assert sent(end, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"


def test_a_task_that_finished_before_its_cancellation_arrived_keeps_its_result() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    step = take(state, result("t", result=3))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "completed"


def test_a_task_that_comes_back_after_its_cancellation_is_not_run_again() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    step = take(state, result("t", "returned"))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []


@pytest.mark.parametrize("action", [Action.CANCEL_TASK, Action.WATCH_TASK])
def test_an_id_that_nobody_knows_is_named_in_the_answer(action: Action) -> None:
    step = take(a_coordinator(), to_me(CLIENT, action, ["nobody"]))

    assert [one["task_id"] for one in refusals(step)] == ["nobody"]


def test_cancelling_a_task_that_has_ended_changes_nothing_and_is_no_error() -> None:
    step = take(a_coordinator(), to_me(CLIENT, Action.CANCEL_TASK, ["t"]), stored=stored(a_task(status="completed")))

    assert refusals(step) == []
    assert step.writes == {}


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
            f"t{n}", status="waiting", children=(f"t{n + 1}",), then=Then(spawned=1), reply_to=("client-1",) * (not n)
        )
        for n in range(depth)
    ]
    state = CoordinatorState("coordinator-1")
    recall(state, [*waiting, a_task(f"t{depth}", status="in_progress", assigned_to="distributor-1")], {}, mono_ms=0)

    step = take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t0"]))

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == [f"t{depth}"]
    assert set(state.local_tasks) == {f"t{depth}"}


# ---- delegating ----


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

    [sweep] = [one for one in take(state, later_s=3600).effects if isinstance(one, Sweep)]
    assert "a" in sweep.keep

    take(state, result("root"))
    [sweep] = [one for one in take(state, later_s=7200).effects if isinstance(one, Sweep)]
    assert sweep.keep == frozenset()


# ---- time ----


def test_a_task_that_waits_past_its_deadline_is_abandoned() -> None:
    state = a_coordinator()
    take(state, submitted(a_task(deadline=NOW + timedelta(seconds=10))))

    early, late = take(state, later_s=9.9), take(state, later_s=10)

    assert sent(early, CLIENT, Action.TASK_RESULT) == []
    [told] = sent(late, CLIENT, Action.TASK_RESULT)
    assert (told["status"], told["error"]["type"]) == ("abandoned", "deadline")
    assert len(state.queue) == 0


def test_a_task_that_runs_past_its_deadline_is_stopped_and_then_abandoned() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task(deadline=NOW + timedelta(seconds=10))))

    stop = take(state, later_s=10)
    end = take(state, result("t", "cancelled"), later_s=11)

    assert sent(stop, DISTRIBUTOR, Action.CANCEL_TASK) == ["t"]
    [told] = sent(end, CLIENT, Action.TASK_RESULT)
    assert (told["status"], told["error"]["type"]) == ("abandoned", "deadline")


def test_a_task_whose_children_run_past_its_deadline_is_abandoned_and_they_are_stopped() -> None:
    state = delegated({"task_id": "a", "task_type": "sum"}, deadline=NOW + timedelta(seconds=10))

    step = take(state, later_s=10)

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["a"]
    [told] = sent(step, CLIENT, Action.TASK_RESULT)
    assert (told["status"], told["error"]["type"]) == ("abandoned", "deadline")


def test_ended_tasks_are_looked_for_at_intervals() -> None:
    state = a_coordinator()

    steps = {seconds: take(state, later_s=seconds) for seconds in (1, 9, 10, 11, 20)}

    assert [seconds for seconds, step in steps.items() if step.effects] == [10, 20]


# ---- distributors that come and go ----


def test_the_tasks_of_a_distributor_that_has_fallen_silent_are_taken_over_once() -> None:
    state = a_coordinator(DISTRIBUTOR, failure_timeout_ms=5000)
    take(state, submitted(a_task()))

    steps = {
        seconds: take(state, beats=[alive(OTHER)] if seconds == 4 else [], later_s=seconds) for seconds in (4, 4.9, 5, 5.1)
    }

    takeovers = {seconds: [one for one in step.effects if isinstance(one, TakeOver)] for seconds, step in steps.items()}
    assert takeovers == {4: [], 4.9: [], 5: [TakeOver("distributor-1")], 5.1: []}


def test_a_lone_distributor_that_has_fallen_silent_keeps_its_tasks_for_its_successor() -> None:
    state = a_coordinator(DISTRIBUTOR, failure_timeout_ms=5000)
    take(state, submitted(a_task()))

    step = take(state, later_s=6)
    take(state, beats=[alive(DISTRIBUTOR, incarnation=2, capacity=4)], later_s=7)
    end = take(state, result("t"), later_s=8)

    assert not any(isinstance(one, TakeOver) for one in step.effects)
    assert sent(end, CLIENT, Action.TASK_RESULT)[0]["status"] == "completed"


def test_tasks_that_were_taken_over_go_to_others_with_the_attempts_they_have_had() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("begun"), a_task("not-begun")))
    take(state, beats=[alive(OTHER, capacity=100)], later_s=4)
    take(state, later_s=5)

    step = take(state, events=[TakenOver("distributor-1", {"begun": (2, 1)})], later_s=5)

    items = {item["task_id"]: item for item in sent(step, OTHER, Action.ASSIGN_TASK)}
    assert (items["begun"]["attempt"], items["begun"]["retry_count"]) == (2, 1)
    assert items["not-begun"].get("attempt", 0) == 0
    assert "distributor-1" not in state.distributors
    assert state.moving == set()


def test_a_takeover_that_did_not_happen_is_tried_again() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, beats=[alive(OTHER, capacity=100)], later_s=4)
    take(state, later_s=5)

    step = take(state, events=[NotTaken("distributor-1")], later_s=6)

    assert TakeOver("distributor-1") in step.effects


def test_a_late_result_of_a_distributor_whose_tasks_were_moved_counts_for_nothing() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, beats=[alive(OTHER, capacity=100)], later_s=4)
    take(state, later_s=5)
    take(state, events=[TakenOver("distributor-1", {})], later_s=5)

    assert sent(take(state, result("t", result="late")), CLIENT, Action.TASK_RESULT) == []
    assert (
        sent(take(state, result("t", result="good", sender=OTHER)), CLIENT, Action.TASK_RESULT)[0]["result"] == "good"
    )


def test_a_distributor_that_has_left_gets_nothing_even_if_its_last_heartbeat_is_seen_after_its_goodbye() -> None:
    state = a_coordinator(DISTRIBUTOR)
    goodbye = to_me(DISTRIBUTOR, Action.AGENT_LEFT, number=2)
    last_beat = alive(DISTRIBUTOR, capacity=4, beat=2)

    take(state, goodbye, beats=[last_beat])
    step = take(state, submitted(a_task()))

    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []


def test_a_heartbeat_left_behind_by_a_distributor_that_died_long_ago_makes_nobody_of_it() -> None:
    state = a_coordinator(failure_timeout_ms=5000)

    take(state, beats=[alive(DISTRIBUTOR, capacity=4)], later_s=3600)
    step = take(state, submitted(a_task()), later_s=3600)

    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []


def test_an_older_heartbeat_does_not_replace_a_newer_one() -> None:
    state = a_coordinator()
    take(state, beats=[alive(DISTRIBUTOR, incarnation=2, beat=1, capacity=1)])

    take(state, beats=[alive(DISTRIBUTOR, incarnation=1, beat=9, capacity=50)])

    assert state.distributors["distributor-1"].window == 1


def test_a_distributor_whose_capacity_has_grown_gets_more_at_once() -> None:
    state = a_coordinator(DISTRIBUTOR, capacity=1)
    take(state, submitted(*[a_task(f"t{n}") for n in range(3)]))

    step = take(state, to_me(DISTRIBUTOR, Action.CAPACITY, capacity=3, capabilities=["task:sum"]))

    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == 2


def test_a_distributor_that_gives_a_task_back_is_given_nothing_until_its_next_heartbeat() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    back = take(state, result("t", "returned"))
    again = take(state, beats=[alive(DISTRIBUTOR, beat=2, capacity=100)])

    assert sent(back, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert len(sent(again, DISTRIBUTOR, Action.ASSIGN_TASK)) == 1


# ---- the Python API ----


def test_a_task_can_be_assigned_to_a_distributor_that_does_not_run_yet() -> None:
    state = a_coordinator()
    call = Call("assign", (a_task(), "distributor-1"), None)

    step = take(state, events=[call])

    assert call.answer is True
    assert len(sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)) == 1
    assert record(step, Table.WANTED, "t", "distributor-1") == {"want": "assigned"}


def test_a_task_that_was_assigned_before_stays_where_it_is() -> None:
    state = a_coordinator()
    take(state, events=[Call("assign", (a_task(), "distributor-1"), None)])
    again = Call("assign", (a_task(), "distributor-2"), None)

    step = take(state, events=[again])

    assert again.answer is True
    assert sent(step, OTHER, Action.ASSIGN_TASK) == []


# ---- coming back ----


def test_a_coordinator_that_comes_back_goes_on_where_it_was() -> None:
    before = delegated({"task_id": "a", "task_type": "sum"}, {"task_id": "b", "task_type": "sum"})
    take(before, result("a", result=1))
    take(before, submitted(a_task("other", capabilities=("gpu",))))

    digests = dict(before.digests)
    after = CoordinatorState("coordinator-1")
    records = [Task.parse(task.to_dict()) for task in before.local_tasks.values()]
    recall(after, records, dict(digests), mono_ms=0)
    step = take(after, result("b", result=2), beats=[alive(DISTRIBUTOR, incarnation=1, capacity=100)])

    [item] = sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)
    assert (item["task_id"], item["inputs"][0]) == ("root", ["a", digests["a"]])
    assert "other" in after.queue


def test_a_step_without_anything_new_asks_nothing_of_the_world_however_many_tasks_are_open() -> None:
    state = a_coordinator(DISTRIBUTOR, capacity=10)
    take(state, submitted(*[a_task(f"t{n}") for n in range(200)]))

    step = take(state, later_s=1)

    assert not step.commits
