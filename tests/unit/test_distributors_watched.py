"""What a coordinator notes, counts and asks when its distributors come, go and lose what they had: whole values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.liveness import (
    judge_distributors,
    note_attempts,
    on_agent_joined,
    on_agent_left,
    on_audited,
    on_beat,
    on_capacity,
    on_not_taken,
    on_taken_over,
)
from coordinator.state import Audit, Audited, CoordinatorState, NotTaken, TakenOver, TakeOver
from core.agents import Health
from core.event_types import EventType
from core.reconciliation import Held, Probe, ProbeState
from core.roles import Action
from core.step import Batch, Sending, Step, Table
from core.tasks import Task, TaskError, TaskStatus
from tests.builders import COORDINATOR, DISTRIBUTOR, NOW, a_batch, a_beat, a_task, message_to, taken
from tests.coordinator_steps import OTHER, handed_out, holding

S = ProbeState
to_me = message_to(COORDINATOR)
AT = NOW + timedelta(seconds=2)
LATER = a_batch(later_s=2)
NAME = "distributor-1"


def a_sign(beat: int = 2, *, incarnation: int = 1, sender: Any = DISTRIBUTOR, **fields: Any) -> Any:
    return a_beat(sender, COORDINATOR, beat=beat, incarnation=incarnation, **{"capacity": 10, **fields})


def watching(*tasks: Task, **fields: Any) -> CoordinatorState:
    return holding(*tasks, incarnation=5, **fields)


def child(state: CoordinatorState) -> Any:
    return state.distributors[NAME]


def test_a_distributor_that_comes_is_noted_and_written_down_with_what_it_has() -> None:
    state, step = CoordinatorState("k", incarnation=5), Step()
    for task in (handed_out("t"), handed_out("u", assigned_to="distributor-2")):
        state.local_tasks[task.task_id] = task

    on_beat(state, a_sign(capacity=3), LATER, step)

    assert (child(state).address, child(state).incarnation, child(state).moved_ms) == (DISTRIBUTOR, 1, 2000)
    assert list(child(state).in_flight) == ["t"]
    assert step.notes == [("distributor_joined", {"distributor": NAME, "capacity": 3})]
    assert step.events == [(EventType.AGENT_JOINED, "", None, str(DISTRIBUTOR))]
    assert step.writes == {(Table.HEADER, ""): {"distributors": b'["distributor-1"]'}}


@pytest.mark.parametrize(("age_s", "known"), [(4.999, True), (5, False)])
def test_the_heartbeat_of_one_that_died_before_anybody_looked_is_taken_away(age_s: float, known: bool) -> None:
    state, step = CoordinatorState("k"), Step()

    on_beat(state, a_sign(), a_batch(later_s=age_s), step)

    assert (NAME in state.distributors) is known
    assert step.writes.get((Table.HEARTBEATS, "")) == (None if known else {NAME: None})


@pytest.mark.parametrize(("incarnation", "beat", "moves"), [(1, 0, False), (1, 2, True), (0, 9, False)])
def test_only_a_newer_heartbeat_is_a_sign_of_life(incarnation: int, beat: int, moves: bool) -> None:
    state = watching()

    on_beat(state, a_sign(beat, incarnation=incarnation), LATER, Step())

    assert child(state).moved_ms == (2000 if moves else 0)


def test_a_distributor_that_was_started_anew_is_asked_anew() -> None:
    state, step = watching(handed_out()), Step()
    child(state).probe = Probe(S.LOOKED, 9, {"t": 1}, 0, Held(1, frozenset()))

    on_beat(state, a_sign(1, incarnation=2), LATER, step)

    assert (child(state).incarnation, child(state).probe) == (2, Probe(S.ASKED, 0, {"t": 1}, 2000))
    assert [name for name, _ in step.notes] == ["distributor_joined"]


def test_a_joining_message_asks_after_nothing() -> None:
    state = watching(handed_out())

    on_agent_joined(state, a_sign(1, incarnation=2, action=Action.AGENT_JOINED), LATER, Step())

    assert child(state).probe == Probe()


def test_what_was_handed_over_is_looked_for_once_it_must_have_been_read() -> None:
    state, step = watching(handed_out()), Step()
    child(state).probe = Probe(S.ASKED, 3, {"t": 1}, 700)

    on_beat(state, a_sign(parent_incarnation=5, received=2), LATER, step)
    assert step.effects == []
    on_beat(state, a_sign(3, parent_incarnation=5, received=3), LATER, step)
    assert step.effects == [Audit(NAME, 700)]


@pytest.mark.parametrize(("probe_ms", "taken"), [(700, True), (701, False)])
def test_what_was_found_counts_for_its_own_question_only(probe_ms: int, taken: bool) -> None:
    state = watching(handed_out())
    child(state).probe = Probe(S.READ, 3, {"t": 1}, 700)

    on_audited(state, Audited(NAME, probe_ms, Held(4, frozenset({"t"}))), LATER, Step())
    on_audited(state, Audited("nobody", probe_ms, Held(4, frozenset())), LATER, Step())

    assert child(state).probe.held == (Held(4, frozenset({"t"})) if taken else None)


def test_what_is_not_there_or_has_ended_without_a_report_that_came_goes_back_in_line() -> None:
    tasks = [handed_out(name) for name in ("there", "ended", "lost")]
    state, step = watching(*tasks), Step()
    asked, held = {"there": 1, "ended": 2, "lost": 3}, Held(2, frozenset({"there", "ended"}))
    child(state).probe = Probe(S.LOOKED, 3, asked, 0, held)
    batch = a_batch(later_s=2, windows=taken(DISTRIBUTOR, 4), sent={DISTRIBUTOR: 6})

    on_beat(state, a_sign(3, sent=4, ended=["ended"]), batch, step)

    assert (state.counts, step.changes) == ({"missing": 2}, {"ended": ("pending",), "lost": ("pending",)})
    assert step.writes[Table.WANTED, NAME] == {"ended": None, "lost": None}
    assert list(child(state).in_flight) == ["there"]
    assert "lost" in state.queue
    assert child(state).probe == Probe(S.ASKED, 6, {"there": 1}, 2000)


@pytest.mark.parametrize(("beat", "sent"), [(2, 4), (3, 5)], ids=["not after it", "not all it sent was taken"])
def test_nothing_is_missing_before_all_that_was_said_since_has_been_taken(beat: int, sent: int) -> None:
    state, step = watching(handed_out()), Step()
    child(state).probe = Probe(S.LOOKED, 3, {"t": 1}, 0, Held(2, frozenset()))

    on_beat(state, a_sign(beat, sent=sent), a_batch(later_s=2, windows=taken(DISTRIBUTOR, 4)), step)

    assert (state.counts, child(state).probe.held) == ({}, Held(2, frozenset()))


def test_a_distributor_that_does_not_answer_is_spoken_to() -> None:
    state, step = watching(handed_out()), Step()
    child(state).probe = Probe(S.ASKED, 3, {"t": 1}, 0)

    on_beat(state, a_sign(), a_batch(later_s=4.999), step)
    assert step.extras == {}
    on_beat(state, a_sign(3), a_batch(later_s=5), step)

    assert step.extras == {Sending(DISTRIBUTOR, Action.ASSIGN_TASK): {}}


def test_a_distributor_is_not_asked_after_what_it_is_handed_in_this_step() -> None:
    state, step = watching(handed_out("t"), handed_out("u")), Step()
    step.change("u", "handed over")

    on_beat(state, a_sign(), LATER, step)

    assert child(state).probe == Probe(S.ASKED, 0, {"t": 1}, 2000)


@pytest.mark.parametrize(
    ("sender", "incarnation", "capacity"), [(DISTRIBUTOR, 1, 3), (DISTRIBUTOR, 2, 10), (OTHER, 1, 10)]
)
def test_a_change_of_room_counts_for_the_start_that_says_so_and_is_no_sign_of_life(
    sender: Any, incarnation: int, capacity: int
) -> None:
    state = watching()

    on_capacity(state, to_me(sender, Action.CAPACITY, incarnation=incarnation, capacity=3), LATER, Step())

    assert (child(state).beat.capacity, child(state).moved_ms) == (capacity, 0)


def test_a_distributor_that_leaves_is_forgotten_at_once_when_it_has_nothing_left() -> None:
    state, step = watching(), Step()

    on_agent_left(state, to_me(DISTRIBUTOR, Action.AGENT_LEFT), LATER, step)

    assert (state.distributors, step.notes) == ({}, [("distributor_left", {"distributor": NAME})])
    assert step.writes == {(Table.HEADER, ""): {"distributors": b"[]"}, (Table.HEARTBEATS, ""): {NAME: None}}
    assert step.events == [(EventType.AGENT_LEFT, "", None, str(DISTRIBUTOR))]
    on_agent_left(state, to_me(DISTRIBUTOR, Action.AGENT_LEFT), LATER, step)  # it may say so twice


def test_a_distributor_that_leaves_something_behind_is_gone() -> None:
    state, step = watching(handed_out()), Step()

    on_agent_left(state, to_me(DISTRIBUTOR, Action.AGENT_LEFT), LATER, step)

    assert (child(state).health, step.commits) == (Health.GONE, False)


@pytest.mark.parametrize(
    ("later_s", "health", "note"),
    [
        (2.499, Health.ACTIVE, []),
        (2.5, Health.SUSPECT, [("distributor_suspect", {"distributor": NAME, "in_flight": 1})]),
        (5, Health.GONE, [("distributor_gone", {"distributor": NAME, "in_flight": 1})]),
    ],
)
def test_a_change_of_a_distributors_health_is_noted(later_s: float, health: Health, note: Any) -> None:
    state, step = watching(handed_out()), Step()
    state.looked_ms = round(later_s * 1000) - 100

    judge_distributors(state, a_batch(later_s=later_s), step)

    assert (step.notes, child(state).health, state.looked_ms) == (note, health, round(later_s * 1000))
    assert (step.effects, state.moving) == ([], set())  # there is no other that could have its tasks


@pytest.mark.parametrize(
    ("tasks", "moving", "effects", "known"),
    [(1, set(), [TakeOver(NAME)], True), (1, {NAME}, [], True), (0, set(), [], False)],
)
def test_the_tasks_of_one_that_is_gone_are_taken_over_once(
    tasks: int, moving: set[str], effects: Any, known: bool
) -> None:
    state, step = watching(*[handed_out()][:tasks], moving={*moving}), Step()
    on_beat(state, a_sign(sender=OTHER), a_batch(later_s=4.9), step)
    state.looked_ms = 4900

    judge_distributors(state, a_batch(later_s=5), step)

    assert (step.effects, state.moving, NAME in state.distributors) == (effects, {NAME} if tasks else set(), known)


@pytest.mark.parametrize(("unseen_ms", "moved_ms"), [(4999, 0), (5000, 5000)])
def test_silence_is_excused_when_nobody_has_listened_for_the_failure_timeout(unseen_ms: int, moved_ms: int) -> None:
    state = watching(handed_out())
    state.looked_ms = 1000

    judge_distributors(state, Batch(now=NOW, mono_ms=1000 + unseen_ms), Step())

    assert (child(state).moved_ms, child(state).health) == (moved_ms, Health.ACTIVE if moved_ms else Health.GONE)


EARLIER = TaskError(type="OSError", message="first", attempt=1, worker="w0")
LOST = TaskError(type="distributor_lost", message="distributor distributor-1 was gone before it reported", attempt=4)


def had(status: TaskStatus, **fields: Any) -> Task:
    """The record in the cell of the distributor that is gone."""
    return handed_out(status=status, attempt=4, retry_count=3, errors=(EARLIER,), **fields)


@pytest.mark.parametrize(
    ("told", "changed"),
    [
        (None, {}),
        (had(TaskStatus.PENDING), {"attempt": 4, "retry_count": 3, "errors": (EARLIER,)}),
        (had(TaskStatus.IN_PROGRESS, assigned_to=None), {"attempt": 4, "retry_count": 3, "errors": (EARLIER, LOST)}),
    ],
)
def test_a_task_that_is_taken_over_goes_back_in_line_with_the_attempts_it_has_had(told: Any, changed: Any) -> None:
    elsewhere, waits = handed_out("elsewhere", assigned_to="distributor-2"), a_task("waits")
    state, step = watching(elsewhere, waits, handed_out(), handed_out("u"), moving={NAME}), Step()

    on_taken_over(state, TakenOver(NAME, {"t": told} if told else {}), LATER, step)

    again = handed_out().evolve(status=TaskStatus.PENDING, updated_at=AT, assigned_to=None, **changed)
    assert state.local_tasks["t"] == again
    assert (state.local_tasks["elsewhere"], state.local_tasks["waits"]) == (elsewhere, waits)
    assert (state.counts, state.moving, state.distributors) == ({"moved": 2}, set(), {})
    assert step.notes == [("tasks_moved", {"distributor": NAME, "tasks": 2})]
    assert step.writes[Table.WANTED, NAME] == {"t": None, "u": None}
    assert step.writes[Table.HEARTBEATS, ""] == {NAME: None}
    assert sorted(task_id for task_id in ("t", "u", "waits", "elsewhere") if task_id in state.queue) == ["t", "u"]


def test_who_ran_what_a_lost_distributor_had_is_kept_in_the_error() -> None:
    state, step = watching(handed_out()), Step()

    on_taken_over(state, TakenOver(NAME, {"t": had(TaskStatus.IN_PROGRESS, assigned_to="w7")}), LATER, step)

    assert state.local_tasks["t"].errors[-1].worker == "w7"


@pytest.mark.parametrize(
    ("fields", "noted"),
    [({}, True), ({"assigned_to": "distributor-2"}, False), ({"status": TaskStatus.WAITING}, False)],
)
def test_what_a_cell_says_of_attempts_is_noted_for_the_tasks_it_has(fields: Any, noted: bool) -> None:
    task = handed_out(**{"then": None, **fields})
    state, step = watching(task), Step()

    note_attempts(state, NAME, {"gone": had(TaskStatus.PENDING), "t": had(TaskStatus.PENDING)}, step)

    changed = {"attempt": 4, "retry_count": 3, "errors": (EARLIER,)} if noted else {}
    assert state.local_tasks == {"t": task.evolve(**changed)}
    assert step.commits is noted


def test_a_take_over_that_failed_is_no_longer_under_way() -> None:
    state = watching(moving={NAME, "other"})

    on_not_taken(state, NotTaken(NAME), LATER, Step())

    assert state.moving == {"other"}
