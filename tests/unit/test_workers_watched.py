"""What a distributor notes, counts and asks when its workers come, go and are asked what they have: whole values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from core.agents import Health, Subordinate
from core.reconciliation import Probe, ProbeState
from core.roles import Action
from core.status_reports import Beat
from core.step import Batch, Sending, Step, Table
from core.tasks import Task, TaskStatus, skills_needed
from distributor import liveness
from distributor.liveness import (
    forget_worker,
    give_back_stranded,
    judge_workers,
    on_agent_joined,
    on_agent_left,
    on_beat,
)
from distributor.state import DistributorState
from tests.builders import COORDINATOR, NOW, WORKER, a_batch, a_beat, a_task, message_to, sent, taken

S = ProbeState
to_me = message_to(COORDINATOR)
LATER = a_batch(later_s=2)
NOW_MS = int(NOW.timestamp() * 1000)


def handed(task_id: str, **fields: Any) -> Task:
    """A task that worker-1 has."""
    return a_task(task_id).evolve(
        **{
            "status": TaskStatus.IN_PROGRESS, "root_id": task_id, "assigned_to": "worker-1", "attempt": 2,
            "retry_count": 2, "max_attempts": 9, "started_at": NOW, "updated_at": NOW, **fields,
        }
    )  # fmt: skip


def watching(*tasks: Task, incarnation: int = 7, **fields: Any) -> DistributorState:
    """A distributor with worker-1, which has these tasks."""
    state = DistributorState("d", coordinator=COORDINATOR, incarnation=5)
    beat = Beat(**{"beat": 1, "concurrency": 4, "capabilities": ("task:sum",), "parent_incarnation": 5, **fields})
    worker = state.workers["worker-1"] = Subordinate(WORKER, incarnation, beat, 0)
    worker.update(beat, 0)
    for task in tasks:
        state.local_tasks[task.task_id] = task
        worker.take(task.task_id, skills_needed(task))
    return state


def a_sign(beat: int = 2, *, incarnation: int = 7, action: str = Action.BEAT, **fields: Any) -> Any:
    told = {"parent_incarnation": 5, **fields}
    return a_beat(WORKER, beat=beat, incarnation=incarnation, action=action, **told)


def test_a_worker_that_comes_is_noted_and_written_down() -> None:
    state, step = DistributorState("d", coordinator=COORDINATOR), Step()
    state.metadata["registered"] = ["worker-9"]

    on_beat(state, a_sign(attempts={"sum": 2}), LATER, step)

    worker = state.workers["worker-1"]
    assert (worker.address, worker.incarnation, worker.moved_ms, worker.beat.beat) == (WORKER, 7, 2000, 2)
    assert step.notes == [("worker_joined", {"worker": "worker-1", "incarnation": 7})]
    assert step.writes == {(Table.HEADER, ""): {"assigned_workers": b'["worker-1","worker-9"]'}}
    assert state.max_attempts == {"sum": 2}


@pytest.mark.parametrize(("age_s", "known"), [(4.999, True), (5, False)])
def test_the_heartbeat_of_one_that_died_before_anybody_looked_makes_nobody_of_it(age_s: float, known: bool) -> None:
    state, step = DistributorState("d", coordinator=COORDINATOR), Step()

    on_beat(state, a_sign(), a_batch(later_s=age_s), step)

    assert ("worker-1" in state.workers) is known
    assert step.writes.get((Table.HEARTBEATS, "")) == (None if known else {"worker-1": None})


def test_an_old_heartbeat_of_a_remembered_worker_tells_only_how_much_it_ran_at_once() -> None:
    state, step = watching(handed("t"), incarnation=0, concurrency=0), Step()

    on_beat(state, a_sign(concurrency=3), a_batch(later_s=5), step)

    worker = state.workers["worker-1"]
    assert (worker.beat.concurrency, worker.incarnation, worker.moved_ms, step.commits) == (3, 0, 0, False)


@pytest.mark.parametrize(
    ("incarnation", "beat", "moves"), [(7, 1, False), (7, 2, True), (6, 9, False)], ids=["same", "newer", "older life"]
)
def test_only_a_newer_heartbeat_is_a_sign_of_life(incarnation: int, beat: int, moves: bool) -> None:
    state = watching()

    on_beat(state, a_sign(beat, incarnation=incarnation), LATER, Step())

    assert state.workers["worker-1"].moved_ms == (2000 if moves else 0)


def test_a_heartbeat_of_a_later_start_waits_for_the_message_with_which_that_joins() -> None:
    state, step = watching(handed("t")), Step()

    on_beat(state, a_sign(incarnation=8), LATER, step)

    assert (state.workers["worker-1"].incarnation, step.commits) == (7, False)


def test_what_a_worker_had_is_lost_when_a_later_start_of_it_joins() -> None:
    state, step = watching(handed("t"), handed("u"), concurrency=1), Step()

    on_agent_joined(state, a_sign(1, incarnation=8, action=Action.AGENT_JOINED), LATER, step)

    assert step.changes == {"t": ("pending worker_lost",), "u": ("pending",)}
    assert [name for name, _ in step.notes] == ["worker_joined"]
    assert (state.workers["worker-1"].incarnation, state.workers["worker-1"].in_flight) == (8, {})
    assert (state.poison_suspects, state.counts) == ({"t", "u"}, {"lost": 2, "retried": 1, "workers_lost": 1})


@pytest.mark.parametrize(
    ("started_at", "holding", "is_another"),
    [
        (NOW, [], True),
        (NOW + timedelta(milliseconds=1), [], False),
        (NOW + timedelta(milliseconds=2), [], False),
        (NOW, [["t", 2]], False),
        (None, [], False),
    ],
)
def test_a_remembered_worker_was_started_anew_if_it_was_handed_something_before_it_began(
    started_at: Any, holding: Any, is_another: bool
) -> None:
    state = watching(handed("t", started_at=started_at), incarnation=0)
    beat = Beat(holding=holding)

    assert liveness.is_successor(state, state.workers["worker-1"], NOW_MS + 1, beat) is is_another


def test_a_worker_that_is_back_stops_all_that_is_no_longer_its_own() -> None:
    state, step = watching(handed("mine"), handed("again", attempt=3), incarnation=0), Step()
    state.local_tasks["moved"] = handed("moved", assigned_to="worker-2")
    holding = [["mine", 2], ["again", 2], ["moved", 2], ["ended", 1]]

    on_beat(state, a_sign(holding=holding), LATER, step)

    [(sending, items)] = step.sends.items()
    assert sending == Sending(WORKER, Action.CANCEL_TASK, None, 7)
    assert [(item["task_id"], item["attempt"]) for item in map(orjson.loads, items)] == [
        ("again", 2), ("moved", 2), ("ended", 1),
    ]  # fmt: skip


def test_what_a_worker_was_asked_for_and_has_not_is_handed_over_again() -> None:
    state, step = watching(handed("has"), handed("lost"), handed("newer")), Step()
    worker = state.workers["worker-1"]
    worker.probe = Probe(S.ASKED, 3, {"has": 1, "lost": 2, "newer": 9}, 0)
    batch = a_batch(later_s=2, windows=taken(WORKER, 4), sent={WORKER: 6})

    on_beat(state, a_sign(holding=[["has", 2]], received=3, sent=4), batch, step)

    assert (state.counts, step.changes) == ({"missing": 1, "lost": 1}, {"lost": ("pending",)})
    assert list(worker.in_flight) == ["has", "newer"]
    assert worker.probe == Probe(S.ASKED, 6, {"has": 1, "newer": 3}, 2000)  # the next question
    assert state.local_tasks["lost"].retry_count == 1


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"received": 2, "sent": 4}, S.ASKED),
        ({"received": 3, "sent": 5}, S.READ),
        ({"received": 3, "sent": 4, "parent_incarnation": 4}, S.ASKED),
    ],
    ids=["has not read it", "what it has sent was not read", "speaks of an earlier distributor"],
)
def test_nothing_is_missing_while_a_message_may_be_under_way(fields: dict[str, Any], after: ProbeState) -> None:
    state, step = watching(handed("lost")), Step()
    worker = state.workers["worker-1"]
    worker.probe = Probe(S.ASKED, 3, {"lost": 1}, 0)

    on_beat(state, a_sign(**fields), a_batch(later_s=2, windows=taken(WORKER, 4)), step)

    assert (worker.probe, state.counts, step.commits) == (Probe(after, 3, {"lost": 1}, 0), {}, False)


def test_what_a_worker_holds_is_told_anew_by_each_heartbeat_until_its_reports_have_been_taken() -> None:
    state = watching(handed("t"))
    state.workers["worker-1"].probe = Probe(S.ASKED, 3, {"t": 1}, 0)
    windows = taken(WORKER, 4)

    on_beat(state, a_sign(2, received=3, sent=5), a_batch(later_s=1, windows=windows), Step())
    on_beat(state, a_sign(3, received=3, sent=4, holding=[["t", 2]]), a_batch(later_s=2, windows=windows), Step())

    assert state.counts == {}


def test_a_worker_that_does_not_answer_is_spoken_to() -> None:
    state, step = watching(handed("t")), Step()
    state.workers["worker-1"].probe = Probe(S.ASKED, 3, {"t": 1}, 0)

    on_beat(state, a_sign(), a_batch(later_s=4.999), step)
    assert step.extras == {}
    on_beat(state, a_sign(3), a_batch(later_s=5), step)

    assert step.extras == {Sending(WORKER, Action.ASSIGN_TASK, None, 7): {}}
    assert state.workers["worker-1"].probe == Probe(S.ASKED, 0, {"t": 1}, 5000)


def test_a_worker_is_not_asked_after_what_it_is_handed_in_this_step() -> None:
    state, step = watching(handed("t"), handed("u")), Step()
    step.change("u", "handed over")

    on_beat(state, a_sign(), LATER, step)

    assert state.workers["worker-1"].probe == Probe(S.ASKED, 0, {"t": 1}, 2000)


def test_a_worker_that_leaves_by_its_own_will_is_noted_and_nobody_is_suspected() -> None:
    state, step = watching(handed("t")), Step()

    on_agent_left(state, to_me(WORKER, Action.AGENT_LEFT), LATER, step)

    assert step.notes == [("worker_left", {"worker": "worker-1"})]
    assert (state.workers, state.poison_suspects, state.counts) == ({}, set(), {"lost": 1})
    assert step.changes == {"t": ("pending",)}
    assert step.writes[Table.HEADER, ""] == {"assigned_workers": b"[]"}
    on_agent_left(state, to_me(WORKER, Action.AGENT_LEFT), LATER, step)  # it may say so twice


def test_of_one_that_died_before_it_was_heard_one_task_may_have_begun_and_only_what_it_still_had_is_lost() -> None:
    others = handed("moved", assigned_to="worker-2")
    state, step = watching(handed("t"), handed("u"), others, concurrency=0), Step()
    state.workers["worker-1"].take("ended")

    forget_worker(state, "worker-1", LATER, step, died=True)

    assert step.changes == {"t": ("pending worker_lost",), "u": ("pending",)}
    assert (state.poison_suspects, state.counts) == ({"t", "u"}, {"lost": 2, "retried": 1, "workers_lost": 1})
    assert state.local_tasks["moved"] == others


def test_of_one_that_died_all_runs_of_agents_may_have_begun_beside_as_many_others_as_it_runs_at_once() -> None:
    chats = [handed(f"chat-{number}", task_type="chat") for number in range(2)]
    state = watching(handed("a"), handed("b"), *chats, concurrency=1)
    on_beat(state, a_sign(concurrency=1, agents=["chat"], agent_concurrency=5), LATER, Step())

    step = Step()
    on_agent_joined(state, a_sign(1, incarnation=8, action=Action.AGENT_JOINED), LATER, step)

    lost = ("pending worker_lost",)
    assert step.changes == {"a": lost, "b": ("pending",), "chat-0": lost, "chat-1": lost}


@pytest.mark.parametrize(
    ("later_s", "health", "note"),
    [
        (2.499, Health.ACTIVE, []),
        (2.5, Health.SUSPECT, [("worker_suspect", {"worker": "worker-1", "in_flight": 1})]),
        (5, None, [("worker_gone", {"worker": "worker-1", "in_flight": 1})]),
    ],
)
def test_a_change_of_a_workers_health_is_noted(later_s: float, health: Any, note: Any) -> None:
    state, step = watching(handed("t")), Step()
    state.looked_ms = round(later_s * 1000) - 100

    judge_workers(state, a_batch(later_s=later_s), step)

    assert (step.notes, state.looked_ms) == (note, round(later_s * 1000))
    assert [worker.health for worker in state.workers.values()] == ([health] if health else [])
    assert step.writes.get((Table.HEARTBEATS, "")) == (None if health else {"worker-1": None})


@pytest.mark.parametrize(("unseen_ms", "moved_ms"), [(4999, 0), (5000, 5000)])
def test_silence_is_excused_when_nobody_has_listened_for_the_failure_timeout(unseen_ms: int, moved_ms: int) -> None:
    state = watching()
    state.looked_ms = 1000

    judge_workers(state, Batch(now=NOW, mono_ms=1000 + unseen_ms), Step())

    assert {worker.moved_ms for worker in state.workers.values()} in ({moved_ms}, set())
    assert bool(state.workers) is bool(moved_ms)


def test_what_nobody_here_can_do_goes_back_after_the_failure_timeout_but_for_what_is_its_own() -> None:
    state = watching()
    waiting = [
        a_task("nobodys", task_type="x", root_id="r"), a_task("own", task_type="x"), a_task("sum", root_id="r"),
    ]  # fmt: skip
    for task in waiting:
        state.local_tasks[task.task_id] = task
        state.queue.push(task)

    steps = [Step(), Step(), Step()]
    for step, later_s in zip(steps, (1, 5.999, 6), strict=True):
        give_back_stranded(state, a_batch(later_s=later_s), step)

    assert [step.commits for step in steps] == [False, False, True]
    assert [item["task_id"] for item in sent(steps[2], COORDINATOR, Action.TASK_RESULT)] == ["nobodys"]
    assert sent(steps[2], COORDINATOR, Action.TASK_RESULT)[0]["stranded"] is True
    assert steps[2].notes == [("tasks_stranded", {"needs": ["task:x"], "tasks": 1})]
    assert sorted(state.local_tasks) == ["own", "sum"]
