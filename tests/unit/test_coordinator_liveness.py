"""What a coordinator knows of its distributors, and what becomes of their tasks."""

from __future__ import annotations

from coordinator.rules import recall
from coordinator.state import Audited, CoordinatorState, NoteAttempts, NotTaken, TakenOver, TakeOver
from core.agents import Health
from core.reconciliation import Held, ProbeState
from core.roles import Action
from core.step import Call, HeartbeatDue, Step, Table
from tests.builders import CLIENT, DISTRIBUTOR, a_task, record, sent
from tests.coordinator_steps import (
    OTHER,
    a_coordinator,
    alive,
    result,
    submitted,
    take,
    to_me,
)


def test_the_tasks_of_a_distributor_that_has_fallen_silent_are_taken_over_once() -> None:
    state = a_coordinator(DISTRIBUTOR, failure_timeout_ms=5000)
    take(state, submitted(a_task()))

    steps = {
        seconds: take(state, beats=[alive(OTHER)] if seconds == 4 else [], later_s=seconds)
        for seconds in (4, 4.9, 5, 5.1)
    }

    takeovers = {
        seconds: [effect for effect in step.effects if isinstance(effect, TakeOver)] for seconds, step in steps.items()
    }
    assert takeovers == {4: [], 4.9: [], 5: [TakeOver("distributor-1")], 5.1: []}


def test_nobody_is_taken_for_dead_who_could_not_be_heard() -> None:
    """Redis was away, or the coordinator stood still."""
    state = a_coordinator(DISTRIBUTOR, OTHER, failure_timeout_ms=5000)
    take(state, later_s=1)

    take(state, later_s=60)
    take(state, later_s=63)
    known_then = list(state.distributors)
    take(state, later_s=64)

    assert (known_then, list(state.distributors)) == (["distributor-1", "distributor-2"], [])


def test_a_lone_distributor_that_has_fallen_silent_keeps_its_tasks_for_its_successor() -> None:
    state = a_coordinator(DISTRIBUTOR, failure_timeout_ms=5000)
    take(state, submitted(a_task()))

    take(state, later_s=4)
    step = take(state, later_s=6)
    known_then = state.distributors["distributor-1"].health
    take(state, beats=[alive(DISTRIBUTOR, incarnation=2, capacity=4)], later_s=7)
    end = take(state, result("t"), later_s=8)

    assert known_then is Health.GONE
    assert not any(isinstance(effect, TakeOver) for effect in step.effects)
    assert sent(end, CLIENT, Action.TASK_RESULT)[0]["status"] == "completed"


def test_tasks_that_were_taken_over_go_to_others_with_the_attempts_they_have_had() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("begun"), a_task("not-begun")))
    take(state, beats=[alive(OTHER, capacity=100)], later_s=4)
    take(state, later_s=5)

    step = take(
        state, events=[TakenOver("distributor-1", {"begun": a_task("begun", attempt=2, retry_count=1)})], later_s=5
    )

    items = {item["task_id"]: item for item in sent(step, OTHER, Action.ASSIGN_TASK)}
    assert (items["begun"]["attempt"], items["begun"]["retry_count"]) == (2, 1)
    assert items["not-begun"].get("attempt", 0) == 0
    assert "distributor-1" not in state.distributors
    assert state.moving == set()


def test_what_a_cell_says_of_attempts_is_written_down_before_the_cell_is_emptied() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("begun"), a_task("elsewhere")))
    state.local_tasks["elsewhere"] = state.local_tasks["elsewhere"].evolve(assigned_to=OTHER.agent_id)
    had = {
        task_id: a_task(task_id, attempt=2, retry_count=1, status="in_progress")
        for task_id in ("begun", "elsewhere", "ended")
    }

    step = take(state, events=[Call(NoteAttempts("distributor-1", had))])

    known = record(step, Table.TASKS, "begun")
    assert (known["attempt"], known["retry_count"], known["status"]) == (2, 1, "in_progress")
    assert list(step.writes[Table.TASKS, ""]) == ["begun"]


def test_a_takeover_that_did_not_happen_is_tried_again() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, beats=[alive(OTHER, capacity=100)], later_s=4)
    take(state, later_s=5)

    step = take(state, events=[NotTaken("distributor-1"), HeartbeatDue()], later_s=6)

    assert TakeOver("distributor-1") in step.effects


def test_what_was_stored_before_a_task_was_handed_over_does_not_tell_that_it_is_lost() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("old")))
    take(state, beats=[alive(DISTRIBUTOR, beat=2)], later_s=1)
    child = state.distributors["distributor-1"]
    before = Audited("distributor-1", child.probe.since_ms, Held(2, frozenset({"old"})))
    assert child.probe.expire(1000, patience_ms=0)
    take(state, submitted(a_task("new"), number=2), later_s=2)
    take(state, beats=[alive(DISTRIBUTOR, beat=3)], later_s=3)

    take(state, events=[before], later_s=3)

    assert child.probe.state is ProbeState.ASKED
    assert child.probe.tasks.keys() == {"old", "new"}


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


def test_tasks_and_runs_of_agents_do_not_take_each_others_room() -> None:
    def handed(step: Step) -> list[str]:
        return sorted(item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK))

    state = a_coordinator()
    chats = [a_task(f"chat-{number}", task_type="chat") for number in range(4)]
    sums = [a_task(f"sum-{number}") for number in range(4)]
    take(state, submitted(*chats), submitted(*sums))
    room = {"capacity": 2, "agents": ["chat"], "agent_capacity": 3, "capabilities": ["task:sum", "task:chat"]}

    handed_over = take(state, beats=[alive(DISTRIBUTOR, **room)])
    assert handed(handed_over) == ["chat-0", "chat-1", "chat-2", "sum-0", "sum-1"]

    # What has ended makes room for its own kind, also after a restart of the coordinator.
    after = CoordinatorState("coordinator-1")
    recall(after, [*state.local_tasks.values()], {}, 0)
    take(after, beats=[alive(DISTRIBUTOR, **room)])
    assert handed(take(after, result("chat-1"))) == ["chat-3"]
    assert handed(take(after, result("sum-0"), result("chat-0"))) == ["sum-2"]


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


def test_a_task_waits_for_one_worker_with_all_it_needs() -> None:
    state = a_coordinator()
    both = {
        "capabilities": ["gpu", "net", "task:sum"],
        "kinds": [{"skills": ["gpu", "task:sum"], "capacity": 9}, {"skills": ["net", "task:sum"], "capacity": 9}],
    }
    take(state, beats=[alive(DISTRIBUTOR, **both)])

    nobody = take(state, submitted(a_task(capabilities=("gpu", "net"))))
    news = {"capacity": 10, "capabilities": ["gpu", "net", "task:sum"], "kinds": []}
    somebody = take(state, to_me(DISTRIBUTOR, Action.CAPACITY, **news))

    assert sent(nobody, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert [item["task_id"] for item in sent(somebody, DISTRIBUTOR, Action.ASSIGN_TASK)] == ["t"]


def test_a_distributor_that_gives_back_what_it_cannot_do_gets_other_tasks_at_once() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, beats=[alive(DISTRIBUTOR, beat=2, capabilities=["task:x"])])

    step = take(state, result("t", "returned", stranded=True), submitted(a_task("other", task_type="x"), number=2))

    assert [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)] == ["other"]
    assert list(state.local_tasks["t"].reply_to) == [str(CLIENT)]
    assert state.local_tasks["t"].status == "pending"


def test_what_is_handed_out_is_decided_by_all_that_the_batch_says_of_the_distributors() -> None:
    state = a_coordinator(DISTRIBUTOR)

    step = take(state, submitted(a_task()), beats=[alive(DISTRIBUTOR, beat=2, draining=True), alive(OTHER)])

    assert sent(step, DISTRIBUTOR, Action.ASSIGN_TASK) == []
    assert len(sent(step, OTHER, Action.ASSIGN_TASK)) == 1
