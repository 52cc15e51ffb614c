"""Dead letters: which tasks become one, what is kept of them and how long, replay and purge."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from msgspec import Raw

from coordinator.dead_letters import MAX_BYTES, MAX_LETTERS, recall_letters
from coordinator.rules import recall
from coordinator.state import CoordinatorState, DeadLetter, Fetch, Fetched, Found, Submission, Sweep
from core.dead_letters import origin_of, submitted_in, successors_of
from core.event_types import EventType
from core.roles import Action, Address, Role
from core.signing import Signed
from core.step import Drain, Received, Sending, Step, Table
from core.tasks import NULL, Task
from tests.builders import CLIENT, DISTRIBUTOR, NOW, a_task, record
from tests.coordinator_steps import a_coordinator, refusals, result, stored, submitted, take, to_me

DEAD, ENDS, KEPT, TASKS = (Table.DEAD, ""), (Table.ENDED, ""), (Table.SUBMISSIONS, ""), (Table.TASKS, "")
NO_DEAD_LETTER = "it is not a dead letter; `agents dlq list` shows them"
OPERATOR = Address(Role.OPERATOR, "eve")
REPLY = Sending(CLIENT, Action.TASK_ACCEPTED, "request-1")


def signed(message: Received, entry: str = "5-0") -> Received:
    """The message as an inbox would give it: with what was signed, and where it lay."""
    return message._replace(
        signed=Signed(message.sender, "kid", b"sig", message.message.encode()), entry_id=entry.encode()
    )


def died(*tasks: Task, entry: str = "5-0", status: str = "failed") -> tuple[CoordinatorState, Step]:
    """A coordinator to which these were submitted in one message, and which has just heard that they failed."""
    state = a_coordinator(DISTRIBUTOR)
    take(state, signed(submitted(*tasks), entry))
    return state, take(state, *(result(task.task_id, status, number=2 + n) for n, task in enumerate(tasks)))


def found(step: Step, task: Task, **fields: Any) -> Found:
    """What is read of a task that was submitted, and has just ended in `step`."""
    [next_id] = successors_of(task, 0, 1)
    written, original = step.writes[TASKS][task.task_id], Raw(task.to_json())
    return Found(**{"task_id": task.task_id, "record": written, "original": original, "next_id": next_id, **fields})


def replayed(state: CoordinatorState, letter: Found, **fields: Any) -> tuple[dict[str, str], Step]:
    """The new ids a client is told, and the step in which they were given."""
    step = take(state, events=[Fetched(REPLY, (letter,))], **fields)
    return step.extras[REPLY].get("replayed", {}), step


# ---- what becomes a dead letter ----


@pytest.mark.parametrize(
    ("status", "dead"), [("failed", True), ("abandoned", True), ("completed", False), ("cancelled", False)]
)
def test_a_submitted_task_that_failed_or_was_given_up_is_a_dead_letter(status: str, dead: bool) -> None:
    state, step = died(a_task(), status=status)

    assert ("t" in state.dead) == dead
    assert (step.writes.get(DEAD) == {"t": int(NOW.timestamp() * 1000)}) == dead
    assert record(step, Table.TASKS, "t")["status"] == status


def test_a_task_whose_deadline_has_passed_is_a_dead_letter() -> None:
    state = a_coordinator()
    take(state, signed(submitted(a_task(deadline=NOW + timedelta(seconds=1)))))

    take(state, later_s=1)

    assert list(state.dead) == ["t"]


def test_a_failed_child_is_its_parents_to_deal_with() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, signed(submitted(a_task("parent"))))
    take(state, result("parent", "delegated", children=[{"task_id": "child", "task_type": "sum"}], then={}))

    take(state, result("child", "failed", number=2))

    assert not state.dead
    assert state.local_tasks["parent"].status == "in_progress"


# ---- the message it came with ----


def test_a_message_is_kept_as_it_was_signed_once_for_all_its_tasks() -> None:
    state = a_coordinator()
    message = signed(submitted(a_task("a", payload=1), a_task("b", payload=2)))

    step = take(state, message)

    assert message.signed
    assert step.writes[KEPT] == {"5-0": message.signed.pack()}
    assert {task.submission for task in state.local_tasks.values()} == {"5-0"}
    assert {
        name: orjson.loads(bytes(item))["payload"] for name, item in submitted_in(message.signed.pack()).items()
    } == {"a": 1, "b": 2}


def test_a_message_is_forgotten_with_the_last_of_its_tasks() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, signed(submitted(a_task("a"), a_task("b"))))

    first = take(state, result("a"))
    last = take(state, result("b", number=2))

    assert KEPT not in first.writes
    assert last.writes[KEPT] == {"5-0": None}
    assert not state.submissions


def test_a_message_is_kept_as_long_as_one_of_its_tasks_is_a_dead_letter() -> None:
    state, _ = died(a_task("a"), a_task("b"))

    known = stored(a_task("a", status="failed")) | stored(a_task("b", status="failed"))
    first = take(state, to_me(CLIENT, Action.PURGE_TASK, ["a"]), stored=known)
    both = take(state, to_me(CLIENT, Action.PURGE_TASK, ["b"], number=2), stored=known)

    assert KEPT not in first.writes
    assert both.writes[KEPT] == {"5-0": None}
    assert (state.dead, state.submissions, state.dead_bytes) == ({}, {}, 0)


def test_a_message_with_nothing_new_in_it_is_not_kept() -> None:
    state = a_coordinator()
    take(state, signed(submitted(a_task())))

    again = take(state, signed(submitted(a_task(), number=2), "6-0"))

    assert KEPT not in again.writes
    assert list(state.submissions) == ["5-0"]


def test_a_message_whose_only_task_is_cancelled_in_the_same_step_leaves_nothing() -> None:
    state = a_coordinator()

    step = take(state, signed(submitted(a_task())), to_me(CLIENT, Action.CANCEL_TASK, ["t"], number=2))

    assert step.writes[KEPT] == {"5-0": None}


# ---- replay ----


def test_to_replay_the_record_and_the_message_are_read_first() -> None:
    state, _ = died(a_task())

    step = take(state, to_me(CLIENT, Action.REPLAY_TASK, ["t"]))

    assert [effect for effect in step.effects if isinstance(effect, Fetch)] == [Fetch(REPLY, ("t",))]
    assert not step.commits


def test_a_replay_opens_a_new_task_and_takes_the_dead_letter_off_in_one_step() -> None:
    task = a_task(payload=[1, 2], priority="urgent", max_attempts=5, metadata={"of": "me"})
    state, ended = died(task)

    ids, step = replayed(state, found(ended, task), later_s=60)

    again = state.local_tasks["t.replay1"]
    assert ids == {"t": "t.replay1"}
    assert step.writes[DEAD] == {"t": None}
    # Kept anew: who asks again, not having heard, has to find its record.
    assert step.writes[ENDS] == {"t": int(NOW.timestamp() * 1000) + 60_000}
    assert ("dead_letter_replayed", {"task_id": "t", "replayed_as": "t.replay1"}) in step.notes
    assert (EventType.TASK_REPLAYED, "t", None, "t.replay1") in step.events
    assert state.counts["replayed"] == 1
    assert state.submissions == {"5-0": Submission(state.submissions["5-0"].size, opened=1)}
    assert KEPT not in step.writes
    assert (again.payload, again.priority, again.max_attempts) == ([1, 2], "urgent", 5)
    assert (again.attempt, again.retry_count, again.errors, again.submission) == (0, 0, (), "5-0")
    assert (again.idempotency_key, again.metadata) == ("t", {"of": "me", "replay_of": "t"})


def test_a_replay_keeps_the_idempotency_key_that_the_task_was_given() -> None:
    task = a_task(idempotency_key="order-7")
    state, ended = died(task)

    replayed(state, found(ended, task))

    assert state.local_tasks["t.replay1"].idempotency_key == "order-7"


@pytest.mark.parametrize("waits", [{"not_before": NOW + timedelta(seconds=100)}, {"delay_s": 100.0}])
def test_a_replay_begins_at_once_however_long_the_task_had_to_wait(waits: dict[str, Any]) -> None:
    state = a_coordinator(DISTRIBUTOR)
    recall_letters(state, {"t": DeadLetter(1, 10, None)}, {})
    failed = a_task(status="failed", owner=str(CLIENT))

    replayed(state, Found("t", failed.to_json(), Raw(a_task(**waits).to_json()), "t.replay1"))

    again = state.local_tasks["t.replay1"]
    assert (again.not_before, again.delay_s) == (None, None)


def test_a_task_that_had_gone_on_as_another_is_replayed_as_it_was_submitted() -> None:
    task = a_task(payload="all")
    state, ended = died(task)
    gathered = a_task(task_type="merge", status="failed", children=("c",), owner=str(CLIENT))

    replayed(state, found(ended, task, record=gathered.to_json()))

    assert (state.local_tasks["t.replay1"].task_type, state.local_tasks["t.replay1"].payload) == ("sum", "all")


def test_without_its_message_a_task_is_replayed_from_its_record_unless_it_had_delegated() -> None:
    tasks = a_task(payload=[3]), a_task("parent")
    state, ended = died(*tasks)
    gathered = a_task("parent", task_type="merge", status="failed", children=("c",), owner=str(CLIENT))

    ids, _ = replayed(state, found(ended, tasks[0], original=NULL))
    none, step = replayed(state, found(ended, tasks[1], original=NULL, record=gathered.to_json()))

    assert ids == {"t": "t.replay1"}
    again = state.local_tasks["t.replay1"]
    assert (again.payload, again.metadata, again.idempotency_key) == ([3], {"replay_of": "t"}, "t")
    assert none == {}
    assert list(step.extras[REPLY]["refused"]) == [
        {
            "task_id": "parent",
            "reason": "the message that submitted it is not kept, and it has delegated since; submit it again",
        }
    ]
    assert "parent" in state.dead


def test_a_replay_that_is_asked_for_twice_is_one_task() -> None:
    task = a_task()
    state, ended = died(task)
    letter = found(ended, task)

    first, _ = replayed(state, letter)
    while_open, step = replayed(state, letter)
    end = take(state, result("t.replay1", number=9))
    latest = end.writes[TASKS]["t.replay1"]
    afterwards, _ = replayed(state, found(ended, task, next_id="t.replay2", latest=latest))

    assert first == while_open == afterwards == {"t": "t.replay1"}
    assert TASKS not in step.writes
    assert not state.local_tasks


def test_a_replay_that_fails_is_a_dead_letter_and_its_replay_counts_on() -> None:
    task = a_task()
    state, ended = died(task)
    replayed(state, found(ended, task))
    again = state.local_tasks["t.replay1"]
    failed = take(state, result("t.replay1", "failed", number=9))

    ids, _ = replayed(state, found(failed, again, original=Raw(task.to_json())))

    assert ids == {"t.replay1": "t.replay2"}
    assert state.local_tasks["t.replay2"].metadata == {"replay_of": "t"}
    assert state.local_tasks["t.replay2"].idempotency_key == "t"
    assert list(state.submissions) == ["5-0"]


def test_what_a_caller_wrote_about_a_replay_into_the_metadata_of_another_task_is_not_believed() -> None:
    assert origin_of(a_task("b", metadata={"replay_of": "a"})) == "b"
    assert origin_of(a_task("a.replay2", metadata={"replay_of": "a"})) == "a"


@pytest.mark.parametrize(("left_s", "kept"), [(60, True), (0, False)])
def test_a_replay_keeps_a_deadline_that_can_still_be_met(left_s: int, kept: bool) -> None:
    task = a_task(deadline=NOW + timedelta(seconds=100))
    state, ended = died(task)

    replayed(state, found(ended, task), later_s=100 - left_s)

    assert (state.local_tasks["t.replay1"].deadline == task.deadline) == kept


HAS_COMPLETED = a_task("x", status="completed", owner=str(CLIENT)).to_json()


@pytest.mark.parametrize(
    "letter",
    [
        Found("x"),
        Found("x", a_task("x", status="completed").to_json(), NULL, "x.replay1"),  # another client's
        Found("x", HAS_COMPLETED, NULL, "x.replay1"),
        Found(
            "x", HAS_COMPLETED, NULL, "x.replay2", latest=a_task("x.replay1").to_json()
        ),  # no replay: it only looks so
    ],
)
def test_what_is_no_dead_letter_is_not_replayed(letter: Found) -> None:
    state = a_coordinator()

    ids, step = replayed(state, letter)

    assert ids == {}
    assert list(step.extras[REPLY]["refused"]) == [{"task_id": "x", "reason": NO_DEAD_LETTER}]
    assert not state.local_tasks


@pytest.mark.parametrize("state_of_it", ["draining", "full", "the id is another's"])
def test_a_replay_that_is_refused_leaves_the_dead_letter_as_it_is(state_of_it: str) -> None:
    task = a_task()
    state, ended = died(task)
    if state_of_it == "draining":
        take(state, events=[Drain()])
    elif state_of_it == "full":
        state.max_open_tasks = 0
    else:
        take(state, submitted(a_task("t.replay1"), number=9))

    ids, step = replayed(state, found(ended, task))

    assert ids == {}
    [refusal] = step.extras[REPLY]["refused"]
    if state_of_it == "the id is another's":
        assert refusal["reason"] == "task id 't.replay1' is in use for another task"
    assert list(state.dead) == ["t"]
    assert state.submissions == {"5-0": state.submissions["5-0"]}
    assert DEAD not in step.writes


# ---- purge ----


def test_a_purged_dead_letter_is_off_the_queue_and_its_record_is_left_to_the_retention_of_ended_tasks() -> None:
    state, _ = died(a_task())

    step = take(state, to_me(CLIENT, Action.PURGE_TASK, ["t"]), stored=stored(a_task(status="failed")))
    [sweep] = [effect for effect in take(state, later_s=60).effects if isinstance(effect, Sweep)]

    assert step.writes[DEAD] == {"t": None}
    assert step.writes[ENDS] == {"t": int(NOW.timestamp() * 1000)}
    assert ("dead_letter_purged", {"task_id": "t"}) in step.notes
    assert (EventType.TASK_PURGED, "t", None) in step.events
    assert TASKS not in step.writes
    assert refusals(step) == []
    assert "t" not in sweep.keep


def test_to_purge_again_is_no_error_and_to_purge_what_is_no_dead_letter_is() -> None:
    state, _ = died(a_task())
    known = stored(a_task(status="failed")) | stored(a_task("fine", status="completed"))
    take(state, to_me(CLIENT, Action.PURGE_TASK, ["t"]), stored=known)

    step = take(state, to_me(CLIENT, Action.PURGE_TASK, ["t", "fine", "nobody"], number=2), stored=known)

    assert refusals(step) == [{"task_id": name, "reason": NO_DEAD_LETTER} for name in ("fine", "nobody")]


@pytest.mark.parametrize(("asker", "purges"), [(OPERATOR, True), (CLIENT, False)])
def test_only_an_operator_purges_a_dead_letter_whose_record_nobody_can_read(asker: Address, purges: bool) -> None:
    state, _ = died(a_task())

    step = take(state, to_me(asker, Action.PURGE_TASK, ["t"]))

    assert ("t" not in state.dead) == purges
    assert [refusal["task_id"] for refusal in refusals(step, asker)] == ([] if purges else ["t"])


# ---- how many are kept, and how long ----


def test_a_dead_letter_is_not_swept_with_other_ended_tasks() -> None:
    state, _ = died(a_task())

    [sweep] = [effect for effect in take(state, later_s=3600 * 24).effects if isinstance(effect, Sweep)]

    assert "t" in sweep.keep


def test_a_dead_letter_is_dropped_when_it_is_too_old_and_that_is_told() -> None:
    state, _ = died(a_task())
    week_s = 7 * 86_400

    early, late = take(state, later_s=week_s - 1), take(state, later_s=week_s)

    assert DEAD not in early.writes
    assert late.writes[DEAD] == {"t": None}
    assert late.writes[KEPT] == {"5-0": None}
    assert ("dead_letters_dropped", {"letters": 1, "first": "t", "last": "t"}) in late.notes


@pytest.mark.parametrize("bound", ["their number", "their bytes", "the bytes of their messages"])
def test_of_too_many_dead_letters_the_oldest_are_dropped(bound: str) -> None:
    state = a_coordinator()
    now_ms = int(NOW.timestamp() * 1000)
    if bound == "their number":
        letters = {f"d{n}": DeadLetter(now_ms, 10, None) for n in range(MAX_LETTERS + 2)}
        recall_letters(state, letters, {})
    elif bound == "their bytes":
        recall_letters(state, {f"d{n}": DeadLetter(now_ms, MAX_BYTES // 4, None) for n in range(6)}, {})
    else:
        letters = {f"d{n}": DeadLetter(now_ms, 1, f"{n}-0") for n in range(5)}
        recall_letters(state, letters, {f"{n}-0": MAX_BYTES // 3 for n in range(5)})

    step = take(state)

    gone = list(step.writes[DEAD])
    assert gone == [f"d{n}" for n in range({"their number": 2, "their bytes": 2}.get(bound, 3))]
    assert step.notes[-1][1]["letters"] == len(gone)


def test_a_message_with_open_tasks_does_not_count_against_its_dead_letters() -> None:
    state = a_coordinator()
    recall(state, [a_task("open", submission="5-0")], {}, 0)
    letters = {"d": DeadLetter(int(NOW.timestamp() * 1000), 10, "5-0")}

    recall_letters(state, letters, {"5-0": 2 * MAX_BYTES})

    assert state.dead_bytes == 10
    assert DEAD not in take(state).writes


def test_a_coordinator_that_comes_back_knows_which_messages_are_still_needed() -> None:
    before, ended = died(a_task("a"), a_task("b"))
    take(before, signed(submitted(a_task("c"), number=9), "6-0"))

    after = a_coordinator()
    recall(after, list(before.local_tasks.values()), {}, 0)
    size = {entry: kept.size for entry, kept in before.submissions.items()}
    recall_letters(after, dict(before.dead), size)

    assert after.submissions == before.submissions == {
        "5-0": Submission(size["5-0"], 0, 2), "6-0": Submission(size["6-0"], 1, 0)
    }  # fmt: skip
    assert (
        after.dead_bytes
        == before.dead_bytes
        == size["5-0"] + sum(len(orjson.dumps(record(ended, Table.TASKS, name))) for name in ("a", "b"))
    )


def test_a_child_that_takes_the_id_of_a_dead_letter_takes_its_place() -> None:
    state, _ = died(a_task("c"))
    take(state, submitted(a_task("parent"), number=9))

    step = take(
        state, result("parent", "delegated", children=[{"task_id": "c", "task_type": "sum"}], then={}, number=10)
    )

    assert step.writes[DEAD] == {"c": None}
    assert not state.dead
    assert state.local_tasks["c"].parent_id == "parent"
