"""What a distributor knows of its workers, and what becomes of their tasks; and how it comes back itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.agents import Health
from core.roles import Action, Address, Role
from core.step import Call, Sending, Table
from core.tasks import Task
from distributor.rules import recall
from distributor.state import AssignTask, DistributorState
from tests.builders import (
    COORDINATOR,
    NOW,
    WORKER,
    a_beat,
    a_task,
    record,
    sent,
    taken,
)
from tests.distributor_steps import (
    WORKER_2,
    a_distributor,
    assigned,
    failure,
    handed,
    outcome,
    reports,
    silence,
    take,
    to_me,
)


def a_running(task_id: str, attempt: int, **fields: Any) -> Task:
    """As it is stored while worker-1 has it."""
    return a_task(
        task_id, status="in_progress", assigned_to="worker-1", attempt=attempt, retry_count=attempt, root_id=task_id,
        started_at=NOW - timedelta(seconds=1), **fields,
    )  # fmt: skip


def test_the_tasks_of_a_worker_that_has_fallen_silent_go_to_others() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    take(state, beats=[a_beat(WORKER_2)], later_s=4)

    early, late = take(state, later_s=4.9), take(state, later_s=5)

    assert handed(early, WORKER_2) == []
    assert handed(late, WORKER_2) == [("t", 2)]
    assert record(late, Table.HEADER, "assigned_workers") == ["worker-2"]
    assert record(late, Table.HEARTBEATS, "worker-1") is None
    assert late.changes["t"] == ("pending worker_lost", "in_progress worker-2 2 sum")


def test_nobody_is_taken_for_dead_who_could_not_be_heard() -> None:
    """Redis was away, or the distributor stood still."""
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    take(state, later_s=1)

    take(state, later_s=60)
    take(state, later_s=63)
    known_then = list(state.workers)
    take(state, later_s=64)

    assert (known_then, list(state.workers)) == (["worker-1"], [])


def test_a_worker_that_is_suspected_gets_nothing_new() -> None:
    state = a_distributor(WORKER)
    take(state, later_s=3)

    step = take(state, assigned(a_task()), later_s=3)

    assert handed(step) == []
    assert state.workers["worker-1"].health is Health.SUSPECT


def test_only_attempts_that_may_have_begun_count_when_a_worker_is_gone() -> None:
    state = a_distributor(WORKER, concurrency=2, capacity=4)
    take(state, assigned(*[a_task(f"t{n}") for n in range(4)]))

    silence(state)

    assert {task.task_id: task.retry_count for task in state.local_tasks.values()} == {
        "t0": 1,
        "t1": 1,
        "t2": 0,
        "t3": 0,
    }


def test_a_task_whose_workers_were_gone_too_often_is_abandoned() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(max_attempts=1)))

    [report] = reports(silence(state))

    assert (report["status"], report["error"]["type"]) == ("abandoned", "worker_lost")


def test_a_task_whose_handler_allows_no_second_attempt_gets_none_when_its_worker_is_gone() -> None:
    state = a_distributor(WORKER, attempts={"sum": 1})
    take(state, assigned(a_task()))
    take(state, beats=[a_beat(WORKER_2)], later_s=4)

    step = take(state, later_s=5)

    assert [report["status"] for report in reports(step)] == ["abandoned"]
    assert handed(step, WORKER_2) == []


def test_what_a_worker_had_is_given_out_again_when_it_was_started_anew() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    step = take(state, a_beat(WORKER, incarnation=2, action=Action.AGENT_JOINED))
    late = take(state, outcome("t", attempt=1))

    assert handed(step) == [("t", 2)]
    assert reports(late) == []


def test_an_attempt_that_a_worker_returned_does_not_count_and_it_gets_nothing_new_before_its_next_heartbeat() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    back = take(state, outcome("t", "returned"))
    still = take(state, later_s=0.1)
    again = take(state, beats=[a_beat(WORKER, beat=2)])

    assert handed(back) + handed(still) == []
    assert handed(again) == [("t", 2)]
    assert state.local_tasks["t"].retry_count == 1


def test_a_worker_that_has_left_gets_nothing_even_if_its_last_heartbeat_is_seen_after_its_goodbye() -> None:
    state = a_distributor(WORKER)

    take(state, to_me(WORKER, Action.AGENT_LEFT, number=2), beats=[a_beat(WORKER, beat=2)])

    assert handed(take(state, assigned(a_task()))) == []


def test_a_heartbeat_left_behind_by_a_worker_that_died_long_ago_makes_nobody_of_it() -> None:
    state = a_distributor()

    step = take(state, assigned(a_task()), beats=[a_beat(WORKER)], later_s=3600)

    assert handed(step) == []
    assert record(step, Table.HEARTBEATS, "worker-1") is None


def test_a_task_that_never_reached_its_worker_is_handed_over_again() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    answer: dict[str, Any] = {"parent_incarnation": 1, "received": 1, "sent": 3}

    asked = take(state, beats=[a_beat(WORKER, beat=2, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))
    again = take(state, beats=[a_beat(WORKER, beat=3, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))

    assert handed(asked) == []
    assert handed(again) == [("t", 2)]
    assert state.local_tasks["t"].retry_count == 1


def test_a_task_whose_report_may_still_be_under_way_is_not_handed_over_again() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    answer: dict[str, Any] = {"parent_incarnation": 1, "received": 1, "sent": 4}

    take(state, beats=[a_beat(WORKER, beat=2, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))
    step = take(state, beats=[a_beat(WORKER, beat=3, **answer)], sent={WORKER: 1}, windows=taken(WORKER, 3))

    assert handed(step) == []


def test_a_task_is_not_asked_after_in_the_step_that_hands_it_over() -> None:
    state = a_distributor(WORKER)
    answer: dict[str, Any] = {"parent_incarnation": 1, "received": 7, "sent": 3}

    take(state, assigned(a_task()), beats=[a_beat(WORKER, beat=2)], sent={WORKER: 7}, windows=taken(WORKER, 3))
    step = take(state, beats=[a_beat(WORKER, beat=3, **answer)], sent={WORKER: 8}, windows=taken(WORKER, 3))

    assert handed(step) == []  # number 8, by which it travels, is not read yet


def test_a_retry_is_not_lost_by_the_answer_to_a_question_about_the_attempt_before() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0)))
    take(state, beats=[a_beat(WORKER, beat=2)], sent={WORKER: 1}, windows=taken(WORKER, 3))
    again = take(state, failure("t"), sent={WORKER: 1})

    answer: dict[str, Any] = {"parent_incarnation": 1, "received": 1, "sent": 4}
    step = take(state, beats=[a_beat(WORKER, beat=3, **answer)], sent={WORKER: 2}, windows=taken(WORKER, 4))

    assert handed(again) == [("t", 2)]
    assert handed(step) == []  # it has not read of the second yet


def test_the_coordinator_hears_at_once_when_there_is_much_more_or_less_room() -> None:
    state = DistributorState("distributor-1", coordinator=COORDINATOR)

    joined = take(state, beats=[a_beat(WORKER, capacity=8)])
    same = take(state, beats=[a_beat(WORKER, beat=2, capacity=8)])
    take(state, later_s=2)
    gone = take(state, later_s=5)

    capacity = Sending(COORDINATOR, Action.CAPACITY)
    kind = {"skills": ("task:sum",), "capacity": 16, "concurrency": 4}
    assert joined.extras[capacity] == {"capacity": 16, "capabilities": ("task:sum",), "kinds": (kind,)}
    assert capacity not in same.extras
    assert gone.extras[capacity] == {}


def test_the_coordinator_hears_of_the_room_for_runs_of_agents_beside_that_for_other_tasks() -> None:
    state = DistributorState("distributor-1", coordinator=COORDINATOR)

    chats = a_beat(WORKER, capacity=8, agents=["chat"], agent_concurrency=5, capabilities=["task:chat"])
    step = take(state, beats=[chats, a_beat(WORKER_2, capacity=8)])

    told = step.extras[Sending(COORDINATOR, Action.CAPACITY)]
    assert (told["capacity"], told["agent_capacity"], told["agents"]) == (32, 10, ("chat",))


def test_a_distributor_that_comes_back_keeps_what_runs_and_hands_out_what_waits() -> None:
    before = a_distributor(WORKER, capacity=1)
    take(before, assigned(a_task("runs"), a_task("waits")))
    records = [Task.from_json(task.to_json()) for task in before.local_tasks.values()]

    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [*records, a_task("ended", status="completed")], mono_ms=0)
    beat = take(after, beats=[a_beat(WORKER, beat=9, capacity=1, holding=[["runs", 1]])])
    end = take(after, outcome("runs", result=3))

    assert handed(beat) == []
    assert [(report["task_id"], report["result"]) for report in reports(end)] == [("runs", 3)]
    assert handed(end) == [("waits", 1)]
    assert "ended" not in after.local_tasks


def test_a_worker_that_does_not_come_back_after_the_distributor_did_loses_its_tasks() -> None:
    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [a_task(status="in_progress", assigned_to="worker-1", attempt=1, retry_count=1)], mono_ms=0)
    take(after, beats=[a_beat(WORKER_2)], later_s=4)

    assert handed(take(after, later_s=5), WORKER_2) == [("t", 2)]


# ---- what no worker here can do ----


def test_the_coordinator_hears_what_single_workers_can_do_when_none_can_do_it_all() -> None:
    state = DistributorState("distributor-1", coordinator=COORDINATOR)
    kinds = [["task:sum", "gpu"], ["task:sum"], ["task:sum", "net"]]

    step = take(
        state, beats=[a_beat(Address(Role.WORKER, f"w{n}"), capabilities=skills) for n, skills in enumerate(kinds)]
    )

    told = step.extras[Sending(COORDINATOR, Action.CAPACITY)]
    assert told["capabilities"] == ("gpu", "net", "task:sum")
    assert [sorted(kind["skills"]) for kind in told["kinds"]] == [
        ["task:sum"], ["gpu", "task:sum"], ["net", "task:sum"]
    ]  # fmt: skip


def test_a_task_whose_last_worker_has_left_is_given_back_after_the_failure_timeout() -> None:
    state = a_distributor(WORKER)
    take(state, beats=[a_beat(WORKER_2, capabilities=["task:other"])])
    take(state, to_me(WORKER, Action.AGENT_LEFT))
    take(state, assigned(a_task("a"), a_task("b", task_type="other", max_attempts=1)))
    take(state)

    early = take(state, beats=[a_beat(WORKER_2, beat=2, capabilities=["task:other"])], later_s=4.9)
    late = take(state, later_s=5)

    assert reports(early) == []
    assert [(report["task_id"], report["status"], report["stranded"]) for report in reports(late)] == [
        ("a", "returned", True)
    ]
    assert record(late, Table.ACTUAL, "a") is None
    assert list(state.local_tasks) == ["b"]


def test_a_worker_that_comes_in_time_gets_what_waited_for_one_like_it() -> None:
    state = a_distributor()
    take(state, assigned(a_task()))
    take(state)
    came = take(state, beats=[a_beat(WORKER, concurrency=1, capacity=1)], later_s=4)
    take(state, assigned(a_task("next")), later_s=4)

    step = take(state, beats=[a_beat(WORKER, beat=2, concurrency=1, capacity=1)], later_s=8)

    assert handed(came) == [("t", 1)]
    assert reports(step) == []
    assert state.stranded == {}


def test_a_distributor_that_was_restarted_waits_for_its_workers_before_it_gives_their_tasks_back() -> None:
    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [a_task(root_id="t")], mono_ms=0)

    first = take(after, later_s=100)
    early = take(after, later_s=104.9)
    heard = take(after, beats=[a_beat(WORKER, timestamp=int(NOW.timestamp() * 1000) + 104_900)], later_s=104.9)

    assert reports(first) + reports(early) + reports(heard) == []
    assert handed(heard) == [("t", 1)]


def test_a_task_that_a_program_assigned_is_not_given_back_since_the_coordinator_does_not_know_of_it() -> None:
    state = a_distributor(WORKER)
    take(state, events=[Call(AssignTask(a_task(), "worker-1"))])
    take(state, to_me(WORKER, Action.AGENT_LEFT))

    step = take(state, later_s=100)
    came = take(state, beats=[a_beat(WORKER_2, timestamp=int(NOW.timestamp() * 1000) + 100_000)], later_s=100)

    assert reports(step) == []
    assert handed(came, WORKER_2) == [("t", 2)]


def test_a_worker_that_comes_back_after_it_was_given_up_stops_what_others_have_by_now() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task("moved"), a_task("waits")))
    take(state, beats=[a_beat(WORKER_2)], later_s=4)
    take(state, later_s=6)  # the first one is taken for dead

    now_ms = int(NOW.timestamp() * 1000) + 6000
    back = take(state, beats=[a_beat(WORKER, beat=2, holding=[("moved", 1), ("gone", 7)], timestamp=now_ms)], later_s=6)

    assert sorted(item["task_id"] for item in sent(back, WORKER, Action.CANCEL_TASK)) == ["gone", "moved"]


def test_a_worker_that_a_restarted_distributor_finds_at_work_goes_on_with_what_is_its_own() -> None:
    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [a_running("mine", attempt=2)], mono_ms=0)

    step = take(after, beats=[a_beat(WORKER, incarnation=1, holding=[("mine", 2), ("old", 1)])])

    assert sent(step, WORKER, Action.CANCEL_TASK) == [{"task_id": "old", "attempt": 1}]


def test_a_heartbeat_that_overtakes_what_the_workers_predecessor_has_reported_does_not_count_as_its_death() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(max_attempts=1)))

    step = take(state, beats=[a_beat(WORKER, incarnation=2)])
    end = take(state, outcome("t"), a_beat(WORKER, incarnation=2, action=Action.AGENT_JOINED))

    assert reports(step) == []
    assert [report["status"] for report in reports(end)] == ["completed"]
    assert state.workers["worker-1"].incarnation == 2


def test_a_worker_of_whose_joining_nothing_was_heard_is_taken_in_after_the_failure_timeout() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))

    steps = []
    for seconds in range(1, 7):
        now_ms = int(NOW.timestamp() * 1000) + 1000 * seconds
        beat = a_beat(WORKER, incarnation=2, beat=seconds, timestamp=now_ms)
        steps.append(take(state, beats=[beat], later_s=seconds))

    assert [handed(step) for step in steps] == [[], [], [], [], [], [("t", 2)]]


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_attempt_counts_whose_worker_and_distributor_died_together(comes_back: bool) -> None:
    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [a_running("poison", attempt=1, max_attempts=1)], mono_ms=0)
    now_ms = int(NOW.timestamp() * 1000)

    if comes_back:
        before = take(after, beats=[a_beat(WORKER, incarnation=now_ms + 1)])
        end = take(after, a_beat(WORKER, incarnation=now_ms + 1, action=Action.AGENT_JOINED))
        assert reports(before) == []
    else:
        take(after, beats=[a_beat(WORKER, concurrency=4, timestamp=now_ms - 60_000)])
        end = silence(after)

    [report] = reports(end)
    assert (report["task_id"], report["status"]) == ("poison", "abandoned")


def test_a_distributor_that_does_not_know_yet_how_often_a_task_may_be_tried_does_not_give_it_up() -> None:
    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [a_running("t", attempt=7)], mono_ms=0)

    unheard = silence(after)
    now_ms = int(NOW.timestamp() * 1000) + 5000
    told = take(after, beats=[a_beat(WORKER_2, attempts={"sum": 50}, timestamp=now_ms)], later_s=5)

    assert reports(unheard) == []
    assert handed(told, WORKER_2) == [("t", 8)]


def test_what_a_worker_gave_back_before_it_was_restarted_with_its_distributor_does_not_count() -> None:
    after = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=2)
    recall(after, [a_running("t", attempt=1, max_attempts=1)], mono_ms=0)
    incarnation = int(NOW.timestamp() * 1000) + 1

    take(after, beats=[a_beat(WORKER, incarnation=incarnation)])
    take(after, outcome("t", "returned"))
    step = take(after, a_beat(WORKER, incarnation=incarnation, action=Action.AGENT_JOINED))

    assert (reports(step), handed(step)) == ([], [("t", 2)])


# ---- what brings its worker down ----


def test_a_task_that_brings_down_its_workers_is_given_up_wherever_it_stood_in_line_and_takes_nobody_along() -> None:
    """Each worker here ends what it was given before `poison`, begins that, and dies before it could report."""
    state = a_distributor()
    take(state, assigned(*(a_task(f"t{n}") for n in range(5)), a_task("poison"), *(a_task(f"u{n}") for n in range(5))))
    executions: list[str] = []
    ended: dict[str, str] = {}

    for life in range(1, 10):
        now_ms = int(NOW.timestamp() * 1000) + 1000 * life
        fields: dict[str, Any] = {
            "incarnation": life,
            "concurrency": 2,
            "capacity": 8,
            "attempts": {"sum": 3},
            "timestamp": now_ms,
        }
        joined = a_beat(WORKER, action=Action.AGENT_JOINED, **fields)
        step = take(state, joined, beats=[a_beat(WORKER, **fields)], later_s=life)
        while mine := handed(step):
            names = list(dict(mine))
            executions += names[: names.index("poison") + 1] if "poison" in names else names
            if "poison" in names:
                break
            step = take(state, *(outcome(name, attempt=attempt) for name, attempt in mine), later_s=life)
            ended |= {report["task_id"]: report["status"] for report in reports(step)}
        ended |= {report["task_id"]: report["status"] for report in reports(step)}

    assert ended == {name: "abandoned" if name == "poison" else "completed" for name in ended}
    assert len(ended) == 11
    assert executions.count("poison") == 4  # the first was behind others, and nobody could say that it had begun
    assert max(executions.count(name) for name in ended if name != "poison") <= 4


def test_a_task_that_a_worker_died_with_is_begun_at_once_or_not_handed_over() -> None:
    state = a_distributor(WORKER, concurrency=1, capacity=3)
    take(state, assigned(*(a_task(f"t{n}") for n in range(3))))
    take(state, beats=[a_beat(WORKER_2, concurrency=1, capacity=3)], later_s=4)

    steps = [take(state, assigned(a_task("new-1"), a_task("new-2")), later_s=5), take(state, later_s=5)]
    for attempt, done in ((1, "new-1"), (1, "new-2"), (2, "t0"), (2, "t1")):
        steps.append(take(state, outcome(done, attempt=attempt, worker=WORKER_2), later_s=5))
    take(state, assigned(a_task("new-3"), a_task("new-4"), a_task("new-5")), later_s=5)

    assert [handed(step, WORKER_2) for step in steps] == [
        [("new-1", 1), ("new-2", 1)], [], [], [("t0", 2)], [("t1", 2)], [("t2", 2)],
    ]  # fmt: skip
    assert len(state.workers["worker-2"].in_flight) == 3


def test_a_suspect_that_nobody_can_run_does_not_keep_others_from_waiting_at_their_workers() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    take(state, beats=[a_beat(WORKER_2, capabilities=["task:x"], concurrency=1, capacity=3)], later_s=4)
    take(state, later_s=5)

    step = take(state, assigned(*(a_task(f"x{n}", task_type="x") for n in range(3))), later_s=5)

    assert len(handed(step, WORKER_2)) == 3
