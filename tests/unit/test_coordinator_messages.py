"""What a coordinator makes of what it is told and asked: what is put aside, answered and kept. Whole values."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw

from coordinator import redrive, rules
from coordinator.state import CoordinatorState, DeadLetter, Fetch, Fetched, Found, Submission
from core.dead_letters import REPLAY_OF
from core.event_types import EventType
from core.roles import Action, Address, Role
from core.server_info import Memory
from core.signing import Signed
from core.status_reports import Beat
from core.step import Drain, HeartbeatDue, Sending, Step, Table
from core.tasks import NULL, Task, TaskStatus, Then
from tests.builders import CLIENT, COORDINATOR, DISTRIBUTOR, NOW, a_batch, a_task, message_to, sent
from tests.coordinator_steps import OTHER, handed_out, holding

to_me = message_to(COORDINATOR)
LATER = a_batch(later_s=2)
AT = NOW + timedelta(seconds=2)
NOW_MS = int(NOW.timestamp() * 1000)
ANSWER = Sending(CLIENT, Action.TASK_ACCEPTED, "request-1")
STRANGER = Address(Role.CLIENT, "stranger")
OPERATOR = Address(Role.OPERATOR, "op")
NO_DEAD_LETTER = "it is not a dead letter; `agents dlq list` shows them"


def asked(action: Action, *items: Any, sender: Address = CLIENT, **fields: Any) -> Any:
    return to_me(sender, action, items, **fields)


def test_what_is_no_task_is_refused_and_the_others_of_its_message_are_accepted() -> None:
    state, step = holding(), Step()
    message = asked(Action.SUBMIT_TASK, {"task_id": "bad"}, 5, a_task("good"), {"task_type": "sum"})

    rules.on_submit_task(state, message, LATER, step)

    refused = step.extras[ANSWER]["refused"]
    assert [refusal["task_id"] for refusal in refused] == ["bad", "?"]
    assert refused[0]["reason"].startswith("task field 'task_type'")
    [good, unnamed] = state.local_tasks
    assert (good, unnamed.startswith("task-"), len(unnamed)) == ("good", True, 25)
    assert state.counts == {"refused": 2, "accepted": 2}
    assert state.submissions == {}  # a program that is no client of ours has signed nothing


def test_the_reason_for_a_refusal_is_told_up_to_its_bound() -> None:
    step = Step()
    step.refuse("t", "x" * 2000)

    rules.on_submit_task(holding(), asked(Action.SUBMIT_TASK, a_task()), LATER, step)

    assert step.extras == {ANSWER: {"refused": ({"task_id": "t", "reason": "x" * rules.REASON_CHARACTERS},)}}


def test_a_signed_message_is_kept_as_it_came_for_its_new_tasks() -> None:
    message = asked(Action.SUBMIT_TASK, a_task("t"), a_task("u"), a_task("known", payload=[1]))
    signed = Signed(CLIENT, "12345678", b"0" * 64, message.message.encode())
    state, step = holding(handed_out("known")), Step()

    rules.on_submit_task(state, message._replace(signed=signed, entry_id=b"5-1"), LATER, step)

    packed = signed.pack()
    assert state.submissions == {"5-1": Submission(len(packed), 2)}
    assert step.writes[Table.SUBMISSIONS, ""] == {"5-1": packed}
    assert {task.submission for task in state.local_tasks.values()} == {"5-1", None}
    assert step.extras == {ANSWER: {}}


@pytest.mark.parametrize("action", [Action.WATCH_TASK, Action.CANCEL_TASK])
def test_who_asks_for_what_is_unknown_or_anothers_is_told_the_same(action: Action) -> None:
    state, step = holding(handed_out("mine"), handed_out("theirs", owner="client:other")), Step()
    on_message = {Action.WATCH_TASK: rules.on_watch_task, Action.CANCEL_TASK: rules.on_cancel_task}[action]

    on_message(state, asked(action, "gone", "theirs", 5, "mine"), LATER, step)

    unknown = [{"task_id": name, "reason": "unknown task"} for name in ("gone", "theirs", "?")]
    assert step.extras == {ANSWER: {"refused": tuple(unknown)}}
    assert state.local_tasks["theirs"] == handed_out("theirs", owner="client:other")
    assert state.local_tasks["mine"].cancel_requested is (action is Action.CANCEL_TASK)


def test_what_has_ended_is_told_to_who_watches_and_cannot_be_cancelled() -> None:
    ended = handed_out("t", status=TaskStatus.COMPLETED)
    batch, watching, cancelling = a_batch(stored={"t": ended.to_json()}), Step(), Step()

    rules.on_watch_task(holding(), asked(Action.WATCH_TASK, "t"), batch, watching)
    rules.on_cancel_task(holding(), asked(Action.CANCEL_TASK, "t"), batch, cancelling)

    assert watching.sends == {Sending(CLIENT, Action.TASK_RESULT): [ended.to_json()]}
    assert (cancelling.sends, cancelling.extras) == ({}, {ANSWER: {}})


def test_who_watches_an_open_task_follows_it() -> None:
    state = holding(handed_out("t", reply_to=()))

    rules.on_watch_task(state, asked(Action.WATCH_TASK, "t"), LATER, Step())

    assert state.local_tasks["t"].reply_to == (str(CLIENT),)


def test_a_cancellation_that_is_asked_again_is_sent_again() -> None:
    step = Step()

    rules.on_cancel_task(holding(handed_out("t", cancel_requested=True)), asked(Action.CANCEL_TASK, "t"), LATER, step)

    assert sent(step, DISTRIBUTOR, Action.CANCEL_TASK) == ["t"]


def test_a_report_that_breaks_its_shape_is_put_aside_and_ends_its_task() -> None:
    state, step = holding(handed_out("t"), handed_out("u")), Step()
    items = [{"status": "completed"}, {"task_id": "t", "status": "great"}, {"task_id": "u", "status": "completed"}]

    rules.on_task_results(state, asked(Action.TASK_RESULT, *items, sender=DISTRIBUTOR), LATER, step)

    assert [(each.received.sender, json.loads(bytes(each.item))) for each in step.rejected] == [
        (DISTRIBUTOR, item) for item in items[:2]
    ]
    records = {key: Task.from_json(bytes(value or b"")) for key, value in step.writes[Table.TASKS, ""].items()}
    error = records["t"].error
    assert error
    assert (records["t"].status, records["u"].status) == (TaskStatus.ABANDONED, TaskStatus.COMPLETED)
    assert (error.type, error.retryable) == ("malformed_report", False)
    assert error.message.startswith("distributor distributor-1 sent a malformed report: ")


def test_the_servers_memory_is_noted_where_it_is_known() -> None:
    state = holding()

    rules.on_heartbeat_due(state, HeartbeatDue(Memory(3, 9)), LATER, Step())
    rules.on_heartbeat_due(state, HeartbeatDue(), LATER, Step())

    assert state.memory == Memory(3, 9)


def test_who_drains_hands_nothing_out() -> None:
    task = a_task("t", task_type="x")
    state, step = holding(task), Step()
    state.distributors["distributor-1"].update(Beat(beat=2, capacity=9, capabilities=("task:x",)), 0)
    state.queue.push(task)

    rules.on_drain(state, Drain(), LATER, step)
    rules.place(state, "t", "distributor-1", LATER, step)
    rules.hand_out(state, LATER, step)

    assert (state.draining, step.sends, "t" in state.queue) == (True, {}, True)
    assert step.events == [(EventType.AGENT_DRAINING, "", None, f"coordinator:{state.agent_id}")]


@pytest.mark.parametrize(("distributor", "goes"), [("distributor-1", True), ("nobody", False)])
def test_a_task_goes_where_a_program_wants_it_if_that_is_known(distributor: str, goes: bool) -> None:
    task = a_task("t", task_type="x")
    state, step = holding(task), Step()
    state.queue.push(task)
    step.place("t", distributor)

    rules.hand_out(state, LATER, step)

    assert ([task["task_id"] for task in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)], "t" in state.queue) == (
        ["t"] if goes else [], not goes,
    )  # fmt: skip


def test_a_pause_that_is_over_ends_and_tasks_are_spread_by_load() -> None:
    state, step = holding(), Step()
    for number in range(4):
        task = a_task(f"t{number}").evolve(not_before=AT)
        state.local_tasks[task.task_id] = task
        state.queue.push(task)
    for address in (DISTRIBUTOR, OTHER):
        child = holding().distributors["distributor-1"]
        child.address = address
        child.update(Beat(beat=2, capacity=2, capabilities=("task:sum",)), 0)
        state.distributors[address.agent_id] = child

    rules.hand_out(state, a_batch(later_s=1.999), step)
    assert step.sends == {}
    rules.hand_out(state, LATER, step)

    assert [len(sent(step, distributor, Action.ASSIGN_TASK)) for distributor in (DISTRIBUTOR, OTHER)] == [2, 2]


@pytest.mark.parametrize(("tasks", "status"), [(0, "idle"), (1, "busy")])
def test_records_are_written_once_as_they_are_at_the_end_of_a_step(tasks: int, status: str) -> None:
    state, step = holding(*[handed_out()][:tasks], unsaved=True), Step()
    step.put(Table.TASKS, "ended", b"as it ended")
    if tasks:
        step.put(Table.TASKS, "t", b"")

    rules.dispatch(state, LATER, step)

    assert step.writes[Table.TASKS, ""] == {"ended": b"as it ended", **({"t": handed_out().to_json()} if tasks else {})}
    assert (state.unsaved, state.status, state.updated_at) == (False, status, AT)


def test_a_restarted_coordinator_knows_what_waits_who_has_what_and_what_belongs_together() -> None:
    state = CoordinatorState("k")
    waits = a_task("p").evolve(status=TaskStatus.WAITING, children=("old", "p/0", "p/1"), then=Then(spawned=2))
    alone = a_task("q").evolve(status=TaskStatus.WAITING, children=("q/0",), then=Then(spawned=1))
    child = handed_out("p/0", parent_id="p", root_id="p")
    second = handed_out("s", assigned_to="distributor-1", inputs=(("x", "dx"),))
    pending, ended = a_task("n", deadline=AT), handed_out("e", status=TaskStatus.COMPLETED)

    rules.recall(state, [waits, alone, child, second, pending, ended], {"p/1": "d1"}, 4000)

    assert list(state.local_tasks) == ["p", "q", "p/0", "s", "n"]
    assert state.read_ms == 4000
    assert (state.families, state.deserted, state.trees) == ({"p": {"p/0"}}, ["q"], {"p": 1})
    assert (state.digests, state.deadlines) == ({"p/1": "d1", "x": "dx"}, [(NOW_MS + 2000, "n")])
    assert ("n" in state.queue, len(state.queue)) == (True, 1)
    known = state.distributors["distributor-1"]
    assert (list(known.in_flight), known.address, known.incarnation, known.beat, known.moved_ms) == (
        ["p/0", "s"], DISTRIBUTOR, 0, Beat(), 4000,
    )  # fmt: skip


# ---- dead letters ----


def dead_one(**fields: Any) -> Task:
    return a_task("t", payload=1).evolve(**{"status": TaskStatus.FAILED, "owner": "client:client-1", **fields})


def with_letter(**fields: Any) -> CoordinatorState:
    letter = DeadLetter(NOW_MS, 10, "5-1")
    return holding(dead={"t": letter}, dead_bytes=17, submissions={"5-1": Submission(7, died=1)}, **fields)


def fetched(*found: Found, asker: Address = CLIENT) -> Fetched:
    return Fetched(ANSWER._replace(recipient=asker), found)


def test_to_replay_is_to_read_first() -> None:
    step = Step()

    redrive.on_replay_task(holding(), asked(Action.REPLAY_TASK, "t", 5), LATER, step)

    assert step.effects == [Fetch(ANSWER, ("t", "?"))]


def test_a_dead_letter_runs_again_as_it_was_submitted() -> None:
    state, step = with_letter(), Step()
    original = a_task("t", payload=2, metadata={"a": 1}, deadline=AT + timedelta(seconds=1), delay_s=5.0)
    found = Found("t", dead_one().to_json(), Raw(original.to_json()), "t.replay1")

    redrive.on_fetched(state, fetched(found), LATER, step)

    assert state.local_tasks == {
        "t.replay1": original.evolve(
            task_id="t.replay1", idempotency_key="t", created_at=AT, root_id="t.replay1", submission="5-1",
            owner="client:client-1", delay_s=None, reply_to=(),
            metadata_json={"a": Raw(b"1"), REPLAY_OF: Raw(b'"t"')},
        )
    }  # fmt: skip
    assert step.extras == {ANSWER: {"replayed": {"t": "t.replay1"}}}
    assert (state.dead, state.dead_bytes, state.submissions) == ({}, 0, {"5-1": Submission(7, opened=1)})
    assert step.writes[Table.ENDED, ""] == {"t": NOW_MS + 2000}
    assert step.writes[Table.DEAD, ""] == {"t": None}
    assert state.counts == {"accepted": 1, "replayed": 1}
    assert step.notes == [("dead_letter_replayed", {"task_id": "t", "replayed_as": "t.replay1"})]


@pytest.mark.parametrize(("after", "kept"), [(timedelta(0), False), (timedelta(microseconds=1), True)])
def test_a_deadline_that_has_passed_is_none_for_a_replay(after: timedelta, kept: bool) -> None:
    state = with_letter()
    found = Found(
        "t", dead_one(deadline=AT + after, idempotency_key="once", not_before=AT).to_json(), NULL, "t.replay1"
    )

    redrive.on_fetched(state, fetched(found), LATER, Step())

    replay = state.local_tasks["t.replay1"]
    assert (replay.deadline is not None, replay.idempotency_key, replay.not_before) == (kept, "once", None)


#: What cannot be replayed: what was found, who asks, whether it is a dead letter, and why not.
REFUSED: dict[str, tuple[Found, Address, bool, str]] = {
    "no record": (Found("t"), CLIENT, True, NO_DEAD_LETTER),
    "another's": (Found("t", dead_one().to_json(), NULL, "n"), STRANGER, True, NO_DEAD_LETTER),
    "none, and never replayed": (Found("t", dead_one().to_json(), NULL, "n"), CLIENT, False, NO_DEAD_LETTER),
    "none, and its successor is nobody's replay": (
        Found("t", dead_one().to_json(), NULL, "open"), CLIENT, False, NO_DEAD_LETTER,
    ),
    "its next id is taken": (
        Found("t", dead_one().to_json(), NULL, "open"), CLIENT, True, "task id 'open' is in use for another task",
    ),
    "its message is gone and it had delegated": (
        Found("t", dead_one(children=("c",)).to_json(), NULL, "n"), CLIENT, True,
        "the message that submitted it is not kept, and it has delegated since; submit it again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused_and_stays_as_it_is(name: str) -> None:
    found, asker, is_dead, why = REFUSED[name]
    state, step = (with_letter if is_dead else holding)(), Step()
    state.local_tasks["open"] = handed_out("open")

    redrive.on_fetched(state, fetched(found, asker=asker), LATER, step)

    reply = ANSWER._replace(recipient=asker)
    assert step.extras == {reply: {"refused": ({"task_id": "t", "reason": why},)}}
    assert (list(state.local_tasks), "t" in state.dead, state.counts) == (["open"], is_dead, {})


@pytest.mark.parametrize("is_open", [False, True])
def test_a_replay_that_is_asked_for_again_is_the_one_there_is(is_open: bool) -> None:
    replay = a_task("t.replay1").evolve(metadata_json={REPLAY_OF: Raw(b'"t"')})
    state, step = holding(*[replay][: int(is_open)]), Step()
    found = Found("t", dead_one().to_json(), NULL, "t.replay1" if is_open else "t.replay2", replay.to_json())

    redrive.on_fetched(state, fetched(found), LATER, step)

    assert step.extras[ANSWER] == {"replayed": {"t": "t.replay1"}}


@pytest.mark.parametrize(("asker", "record", "purged"), [
    (CLIENT, dead_one(), True), (STRANGER, dead_one(), False), (OPERATOR, None, True), (CLIENT, None, False),
])  # fmt: skip
def test_a_dead_letter_is_purged_by_whose_it_is_and_by_operators(asker: Address, record: Any, purged: bool) -> None:
    state, step = with_letter(), Step()
    batch = a_batch(later_s=2, stored={"t": record.to_json()} if record else {})

    redrive.on_purge_task(state, asked(Action.PURGE_TASK, "t", sender=asker), batch, step)

    refused = [] if purged else [{"task_id": "t", "reason": NO_DEAD_LETTER}]
    assert step.extras == {ANSWER._replace(recipient=asker): {"refused": tuple(refused)} if refused else {}}
    assert ("t" in state.dead) is not purged
    assert step.writes.get((Table.ENDED, "")) == ({"t": NOW_MS + 2000} if purged else None)
    assert step.notes == ([("dead_letter_purged", {"task_id": "t"})] if purged else [])
    assert (state.submissions, state.dead_bytes) == (({}, 0) if purged else ({"5-1": Submission(7, died=1)}, 17))


@pytest.mark.parametrize(("status", "refused"), [(TaskStatus.FAILED, 0), (TaskStatus.COMPLETED, 1)])
def test_to_purge_again_is_no_error_but_only_for_what_failed(status: TaskStatus, refused: int) -> None:
    batch, step = a_batch(stored={"t": dead_one(status=status, root_id="t").to_json()}), Step()

    redrive.on_purge_task(holding(), asked(Action.PURGE_TASK, "t"), batch, step)

    assert len(step.extras[ANSWER].get("refused", ())) == refused
