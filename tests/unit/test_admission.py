"""Who and what is let in by a coordinator, joined to what it knows, or refused with the cure: whole values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw

from coordinator import task_life
from coordinator.admission import note_memory, refusal
from core.errors import BadTask
from core.roles import Action
from core.server_info import Memory
from core.step import Sending, Step, Table
from core.tasks import Task, TaskStatus
from tests.builders import CLIENT, NOW, a_batch, a_task
from tests.coordinator_steps import handed_out, holding

S = TaskStatus
NOW_MS = int(NOW.timestamp() * 1000)
AT = NOW + timedelta(seconds=2)
LATER = a_batch(later_s=2)


def asked_again(**fields: Any) -> Task:
    return a_task(**{"payload": [1], **fields})


@pytest.mark.parametrize("ended", [False, True])
def test_who_submits_a_task_again_joins_those_who_wait_for_it(ended: bool) -> None:
    other = CLIENT._replace(agent_id="client-1~2")
    known = handed_out(status=S.COMPLETED if ended else S.PENDING, assigned_to=None)
    state, step = holding(*([] if ended else [known])), Step()
    batch = a_batch(later_s=2, stored={"t": known.to_json()} if ended else {})

    task_life.accept(state, asked_again(), other, batch, step)

    if ended:
        assert step.sends == {Sending(other, Action.TASK_RESULT): [known.to_json()]}
        assert (step.told, state.local_tasks) == ({other: len(known.to_json())}, {})
    else:
        assert state.local_tasks["t"].reply_to == (str(CLIENT), str(other))
    assert state.counts == {}


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ({"parent_id": "p"}, {}),
        ({}, {"task_type": "other"}),
        ({}, {"payload": [2]}),
        ({"owner": "client:somebody-else"}, {}),
    ],
)
def test_the_id_of_another_task_cannot_be_submitted(known: dict[str, Any], asked: dict[str, Any]) -> None:
    state, step = holding(handed_out(**known)), Step()

    with pytest.raises(BadTask, match=r"^task id 't' is in use for another task; choose another id$"):
        task_life.accept(state, asked_again(**asked), CLIENT, LATER, step)

    assert not step.commits


def test_a_task_that_has_delegated_is_known_again_though_it_goes_on_as_another_type() -> None:
    known = handed_out(task_type="merge", payload_json=Raw(b"9"), children=("c",))

    task_life.accept(holding(known), asked_again(), CLIENT, LATER, Step())


@pytest.mark.parametrize(
    ("asker", "owner", "whose"), [(CLIENT, None, "client:client-1"), (None, "operator:o", "operator:o")]
)
def test_a_new_task_is_opened_for_whom_it_is(asker: Any, owner: Any, whose: str) -> None:
    state, step = holding(), Step()
    task = asked_again(deadline=AT + timedelta(microseconds=1))

    task_life.accept(state, task, asker, LATER, step, submission="5-1", owner=owner)

    opened = task.evolve(
        created_at=AT, root_id="t", submission="5-1", owner=whose, reply_to=(str(CLIENT),) if asker else ()
    )
    assert state.local_tasks == {"t": opened}
    assert step.writes == {(Table.OPEN, ""): {"t": NOW_MS + 2000}, (Table.TASKS, ""): {"t": b""}}
    assert (state.counts, state.trees, "t" in state.queue) == ({"accepted": 1}, {}, True)
    assert state.deadlines == [(NOW_MS + 2001, "t")]  # the first millisecond at which it has passed
    assert step.changes == {"t": ("pending",)}


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a program": ({}, "not today"),
    "draining": ({"draining": True}, "the coordinator is draining; submit again when it is back"),
    "too many": (
        {"max_open_tasks": 1},
        "1 tasks are open, the most this coordinator admits (MAX_OPEN_TASKS); submit again when some have ended",
    ),
    "memory": (
        {"memory": Memory(80, 100)},
        "Redis uses 80% of its maxmemory, and above 80% (MEMORY_HIGH_WATER) there is only room to finish what was"
        " accepted; submit again when tasks have ended and are forgotten (TASK_RETENTION_S), or raise maxmemory",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_new_task_that_is_not_admitted_is_refused_with_the_cure(name: str) -> None:
    limits, why = REFUSALS[name]
    state, step = holding(a_task("open"), **limits), Step()
    if name == "a program":
        step.refuse("t", why)

    with pytest.raises(BadTask) as refused:
        task_life.accept(state, asked_again(), CLIENT, LATER, step)

    assert str(refused.value) == why
    assert list(state.local_tasks) == ["open"]


def test_memory_that_was_promised_counts_until_the_server_can_have_counted_it() -> None:
    task = asked_again()
    needed = 4 * len(task.to_json()) + 1024
    state = holding(memory=Memory(1_000, 10_000), memory_high_water=(1_000 + needed) / 10_000)

    assert refusal(state, task) == ""
    assert state.admitted_bytes == (0, needed)
    assert "MEMORY_HIGH_WATER" in refusal(state, task)
    state.admitted_bytes = (1, 0)
    assert "MEMORY_HIGH_WATER" in refusal(state, task)
    state.admitted_bytes = (0, 1)
    assert "MEMORY_HIGH_WATER" in refusal(state, task)


def test_what_was_admitted_before_the_last_heartbeat_counts_until_the_next() -> None:
    task = asked_again()
    needed = 4 * len(task.to_json()) + 1024
    state = holding(memory=Memory(0, 100_000), admitted_bytes=(7, 20))

    assert refusal(state, task) == ""
    assert state.admitted_bytes == (7, 20 + needed)
    note_memory(state, Memory(5, 100_000))
    assert (state.admitted_bytes, state.memory) == ((20 + needed, 0), Memory(5, 100_000))


def test_no_more_than_so_many_who_ask_are_remembered_the_newest_first() -> None:
    task = handed_out(reply_to=tuple(f"client:c{number}" for number in range(task_life.MAX_FOLLOWERS)))
    state, step = holding(task), Step()

    task_life.follow(state, task, CLIENT, step)
    task_life.follow(state, state.local_tasks["t"], CLIENT, step)

    assert state.local_tasks["t"].reply_to == (*task.reply_to[1:], str(CLIENT))


@pytest.mark.parametrize(("told_before", "is_told"), [(0, True), (-1, True), (1, False)])
def test_one_answer_tells_of_ended_tasks_up_to_its_limit(told_before: int, is_told: bool) -> None:
    task = handed_out(status=S.COMPLETED)
    size = len(task.to_json())
    step = Step(told={CLIENT: task_life.MAX_TOLD_BYTES - size + told_before})

    task_life.follow(holding(), task, CLIENT, step)

    assert (Sending(CLIENT, Action.TASK_RESULT) in step.sends) is is_told


def test_deadlines_are_looked_through_when_there_are_many_more_than_open_tasks_and_none_of_those_is_forgotten() -> None:
    kept = task_life.DEADLINES_KEPT
    state = holding(deadlines=[(number, "gone") for number in range(kept + 1)])

    def open_one(task_id: str) -> None:
        task_life.accept(state, asked_again(task_id=task_id, deadline=AT), CLIENT, LATER, Step())

    open_one("a")
    assert len(state.deadlines) == kept + 2
    state.deadlines += [(number, "gone") for number in range(3)]
    open_one("b")
    assert sorted(state.deadlines) == [(NOW_MS + 2000, "a"), (NOW_MS + 2000, "b")]
