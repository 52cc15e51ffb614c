"""What a coordinator decides about the questions of suspended tasks, and about their answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from coordinator.rules import recall
from core.event_types import EventType
from core.roles import Action, Address, Role
from core.step import Step, Table
from core.tasks import TaskStatus
from core.waits import ANSWERS_LIMIT_BYTES, REMEMBERED, digest_of
from tests.builders import CLIENT, DISTRIBUTOR, NOW, a_task, record, sent
from tests.coordinator_steps import (
    CLIENT_2,
    OTHER,
    a_coordinator,
    alive,
    digest,
    result,
    submitted,
    take,
    to_me,
)
from tests.suspension_steps import (
    ASKS,
    answering,
    child,
    delegation,
    handed,
    listed,
    reasons,
    restarted,
    suspended,
    suspension,
)

OPERATOR = Address(Role.OPERATOR, "eve")


def told(step: Step) -> list[tuple[Any, ...]]:
    return [event for event in step.events if isinstance(event, tuple) and str(event[0]).startswith("question")]


# ---- a question ----


def test_an_answer_adds_stream_modes_to_those_of_its_task_and_keeps_its_other_options() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, alive(DISTRIBUTOR))
    take(state, submitted(a_task(run={"stream": ["updates"], "interrupt_after": ["write"]})))
    take(state, suspension())
    refused = take(state, answering("yes", stream=["no-such-mode"]))
    answered = take(state, answering("yes", stream=["events", "updates"]))
    again = take(state, answering("yes", stream=["debug"]))

    assert len(reasons(refused)) == 1
    assert (reasons(answered), reasons(again)) == ([], [])
    run = {"stream": ["updates", "events"], "interrupt_after": ["write"]}
    assert record(answered, Table.TASKS, "t")["run"] == run
    assert [task["run"] for task in handed(answered)] == [run]
    assert state.local_tasks["t"].run is not None
    assert state.local_tasks["t"].run.stream == ("updates", "events")


def test_an_answer_may_have_a_task_tell_that_was_submitted_without_options() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, alive(DISTRIBUTOR))
    take(state, submitted(a_task()))
    take(state, suspension())
    answered = take(state, answering("yes", stream=["updates"]))
    assert [task["run"] for task in handed(answered)] == [{"stream": ["updates"]}]


def test_a_suspended_task_waits_in_no_hands_and_is_listed_until_it_is_answered() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    asked = take(state, suspension(output="thinking\n"))
    answered = take(state, answering("yes", digest=state.local_tasks["t"].waits[0].digest))

    waiting = record(asked, Table.TASKS, "t")
    assert (waiting["status"], waiting.get("assigned_to"), waiting["output"]) == ("waiting", None, "thinking\n")
    [wait] = waiting["waits"]
    assert wait == {**ASKS, "digest": digest_of(state.local_tasks["t"].waits[0]), "asked_at": "2026-01-01T12:00:00Z"}
    assert asked.writes[Table.WANTED, "distributor-1"] == {"t": None}
    assert asked.writes[Table.QUESTIONS, ""] == {"t": int(NOW.timestamp() * 1000)}
    assert told(asked) == [(EventType.QUESTION_ASKED, "t", None, "q", "review")]
    assert reasons(answered) == []
    [item] = handed(answered)
    assert (item["status"], item["task_type"]) == ("in_progress", "sum")
    assert [(wait["answer"], wait["answered_by"]) for wait in item["waits"]] == [("yes", "client:client-1")]
    assert answered.writes[Table.QUESTIONS, ""] == {"t": None}
    assert told(answered) == [(EventType.QUESTION_ANSWERED, "t", None, "q", "client:client-1")]
    assert state.questions == {}


def test_a_task_that_was_answered_has_all_its_attempts_and_keeps_its_answers_until_it_ends() -> None:
    state = suspended(ASKS)
    take(state, answering(None))

    take(state, result("t", "returned", attempt=2, retry_count=0))
    again = state.local_tasks["t"]
    take(state, beats=[alive(OTHER)])
    ended = take(state, result("t", attempt=3, result="done", sender=OTHER))

    assert (again.status, again.retry_count, again.waits[0].settled) == (TaskStatus.PENDING, 0, True)
    assert record(ended, Table.TASKS, "t")["waits"][0]["answer"] is None


def test_a_task_with_several_questions_goes_on_when_the_last_is_answered_in_any_order() -> None:
    state = suspended(ASKS, {"id": "r"}, {"id": "breakpoint:write"})

    first = take(state, answering(1, to="r"))
    second = take(state, answering(2, to="breakpoint:write"), answering(3))

    assert handed(first) == []
    assert Table.QUESTIONS not in {table for table, _ in first.writes}
    assert [wait["answer"] for wait in handed(second)[0]["waits"]] == [3, 1, 2]


def test_the_next_suspension_replaces_what_was_asked() -> None:
    state = suspended(ASKS)
    take(state, answering("yes"))

    take(state, suspension({"id": "second"}, attempt=2))
    step = take(state, answering("no", to="second"))

    assert [wait["id"] for wait in handed(step)[0]["waits"]] == ["second"]


# ---- answers that are not taken ----

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown task": ({"task_id": "other"}, "unknown task"),
    "unknown question": ({"to": "x"}, "there is no question 'x'; it asks q, r"),
    "older question": ({"digest": "0" * 64}, "question 'q' is not what was shown: the digest is of an older one"),
    "too large": ({"value": "x" * 300_000}, "answer has 300002 bytes as JSON"),
    "too deep": ({"value": orjson.loads(b"[" * 65 + b"]" * 65)}, "nests lists and objects deeper than 64"),
    "no text": ({"to": 7}, "interrupt_id: expected str, got int"),
    "somebody else's": ({"client": CLIENT_2}, "unknown task"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_that_fits_no_question_is_refused_with_the_reason_and_the_question_stays(name: str) -> None:
    state = suspended(ASKS, {"id": "r"})
    fields, reason = REFUSED[name]
    value = fields.pop("value", "yes") if "value" in fields else "yes"

    step = take(state, answering(value, **fields))

    [told_reason] = reasons(step, fields.get("client", CLIENT))
    assert reason in told_reason
    assert [wait.settled for wait in state.local_tasks["t"].waits] == [False, False]


def test_only_the_first_answer_counts_and_the_second_is_told_whose_that_was() -> None:
    state = suspended(ASKS, shared_with=["client-2"])
    take(state, answering("yes"))

    second = take(state, answering("no", client=CLIENT_2))

    assert reasons(second, CLIENT_2) == [
        "question 'q' was answered by client:client-1 at 2026-01-01 12:00:00 UTC: the first answer stays"
    ]
    assert state.local_tasks["t"].waits[0].answer == "yes"


def test_the_same_answer_again_is_no_second_one_even_when_the_task_has_asked_more_or_ended() -> None:
    state = suspended(ASKS)
    take(state, answering("yes"))

    at_once = take(state, answering("yes"))
    take(state, suspension({"id": "second"}, attempt=2))
    later = take(state, answering("yes"))
    other = take(state, answering("no"))
    take(state, answering(1, to="second"))
    end = take(state, result("t", attempt=3))
    stored = {"t": bytes(end.writes[Table.TASKS, ""]["t"] or b"")}
    ended = take(state, answering("yes"), answering(1, to="second"), stored=stored)
    late = take(state, answering(2, to="second"), stored=stored)
    never = take(state, answering(2, to="third"), stored=stored)

    assert [reasons(step) for step in (at_once, later, ended)] == [[], [], []]
    assert reasons(other) == ["question 'q' was answered before, and the task has gone on: that answer stays"]
    assert "was answered by client:client-1" in reasons(late)[0]
    assert reasons(never) == ["the task has ended as completed, so nothing is asked any more"]


def test_what_a_task_remembers_of_earlier_answers_is_bounded() -> None:
    state = suspended(ASKS)
    for attempt in range(2, REMEMBERED + 4):
        take(state, answering(attempt))
        take(state, suspension(attempt=attempt))

    assert len(state.local_tasks["t"].answered) == REMEMBERED


def test_the_answers_of_one_run_are_bounded_together() -> None:
    state = suspended(*({"id": f"q{number}"} for number in range(5)))
    large = "x" * 250_000

    steps = [take(state, answering(large, to=f"q{number}")) for number in range(5)]

    assert [reasons(step) for step in steps[:4]] == [[]] * 4
    assert f"over {ANSWERS_LIMIT_BYTES} bytes together" in reasons(steps[4])[0]
    assert reasons(take(state, answering("a reference", to="q4"))) == []


def test_a_task_that_runs_or_waits_for_others_says_so_to_who_answers_it() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task(), a_task("s")))
    take(state, result("s", "delegated", children=[{"task_id": "s/0", "task_type": "sum"}]))

    step = take(state, answering(1), answering(1, task_id="s"))

    runs, waits = (reason for [reason] in [reasons(take(state, answering(1, task_id=name))) for name in ("t", "s")])
    assert runs == "there is no question 'q'; it asks nothing now, it is in_progress"
    assert waits == "there is no question 'q'; it asks nothing now, it waits for other tasks"
    assert handed(step) == []


# ---- time, cancellation, restarts ----


def test_a_question_that_nobody_answers_in_time_gets_its_default() -> None:
    state = suspended({**ASKS, "expires_s": 60, "default": "no"}, {"id": "r", "expires_s": 90})

    before = take(state, later_s=59)
    first = take(state, later_s=60)
    late = take(state, answering("yes"), later_s=61)
    second = take(state, later_s=90)

    assert (told(before), told(first)) == ([], [(EventType.QUESTION_EXPIRED, "t", None, "q")])
    assert reasons(late) == [
        "question 'q' has expired, and its default counts, at 2026-01-01 12:01:00 UTC: the first answer stays"
    ]
    [item] = handed(second)
    assert [wait.get("answer") for wait in item["waits"]] == ["no", None]
    assert [wait.get("answered_by") for wait in item["waits"]] == [None, None]


def test_moments_of_questions_that_are_open_no_more_are_forgotten() -> None:
    state = suspended({**ASKS, "expires_s": 3600})
    for attempt in range(2, 2_000):
        take(state, answering(attempt))
        take(state, suspension({**ASKS, "expires_s": 3600}, attempt=attempt))

    assert len(state.expiries) < 1_100


def test_a_task_that_asks_much_has_one_moment_at_a_time_so_that_looking_through_them_is_rare() -> None:
    state = suspended(*({"id": name, "expires_s": expires_s} for name, expires_s in (("q", 60), ("r", 90), ("s", 120))))
    assert [task_id for _, task_id in state.expiries] == ["t"]

    take(state, answering("yes"))
    assert told(take(state, later_s=60)) == []
    assert told(take(state, later_s=90)) == [(EventType.QUESTION_EXPIRED, "t", None, "r")]
    assert [task_id for _, task_id in state.expiries] == ["t"]
    assert told(take(state, later_s=120)) == [(EventType.QUESTION_EXPIRED, "t", None, "s")]
    assert state.expiries == []


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
def test_a_task_that_waits_for_an_answer_can_be_cancelled_and_has_a_deadline(how: str) -> None:
    state = suspended(ASKS, deadline=NOW + timedelta(seconds=30))

    cancelling = to_me(CLIENT, Action.CANCEL_TASK, ["t"])
    step = take(state, cancelling) if how == "cancelled" else take(state, later_s=30)

    [item] = sent(step, CLIENT, Action.TASK_RESULT)
    assert item["status"] == ("cancelled" if how == "cancelled" else "abandoned")
    assert step.writes[Table.QUESTIONS, ""] == {"t": None}
    assert (state.questions, state.local_tasks) == ({}, {})


def test_a_task_whose_end_was_asked_for_before_it_was_suspended_asks_nothing() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    take(state, to_me(CLIENT, Action.CANCEL_TASK, ["t"]))

    step = take(state, suspension())

    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "cancelled"
    assert told(step) == []


def test_a_restarted_coordinator_knows_what_is_asked_and_by_when() -> None:
    state = suspended({**ASKS, "expires_s": 60, "default": 0})

    successor = restarted(state)

    assert (successor.questions, successor.expiries) == (state.questions, state.expiries)
    assert successor.deserted == []
    assert reasons(take(successor, answering("yes"))) == []
    assert successor.questions == {}


def test_a_restarted_coordinator_sends_on_who_waits_for_nothing_any_more() -> None:
    state = suspended({"id": "d", "children": ["t/0"]}, children=[{"task_id": "t/0", "task_type": "x"}])
    end = take(state, result("t/0"))
    before = a_coordinator()
    waiting = state.local_tasks["t"].evolve(status=TaskStatus.WAITING, assigned_to=None, inputs=())
    recall(before, [waiting], {"t/0": digest(end, "t/0")}, 0)

    take(before)

    assert before.local_tasks["t"].inputs == (("t/0", digest(end, "t/0")),)
    assert "t" in before.queue


# ---- what a report may say ----

NONSENSE: dict[str, tuple[list[Any], str]] = {
    "nothing": ([], "waits for 1 to 1000 things at once, not 0"),
    "too much": ([{"id": f"{number}"} for number in range(1001)], "waits for 1 to 1000 things at once, not 1001"),
    "twice": ([{"id": "q"}, {"id": "q"}], "two things with the same id"),
    "large": ([{"id": f"{number}", "asks": "x" * 200_000} for number in range(3)], "over the limit of 524288"),
    "one large": ([{"id": "q", "asks": "x" * 300_000}], "question has 300002 bytes"),
    "default": ([{"id": "q", "default": "x" * 300_000}], "default answer has 300002 bytes"),
    "no id": ([{"id": ""}], "waits[0].id"),
    "long id": ([{"id": "x" * 201}], "waits[0].id"),
    "for ever": ([{"id": "q", "expires_s": 1e12}], "waits[0].expires_s"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_waits_that_no_task_may_have_are_a_malformed_report(name: str) -> None:
    waits, problem = NONSENSE[name]
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))

    step = take(state, result("t", "suspended", waits=waits))

    [put_aside] = step.rejected
    assert problem in str(put_aside.error)
    assert sent(step, CLIENT, Action.TASK_RESULT)[0]["status"] == "abandoned"


def test_a_worker_answers_no_question_of_its_own() -> None:
    forged = {**ASKS, "answer": "yes", "settled_at": "2026-01-01T12:00:00Z", "answered_by": "client:client-1"}

    state = suspended({**forged, "digest": "d", "asked_at": "2020-01-01T12:00:00Z", "refused": "no"})

    [wait] = state.local_tasks["t"].waits
    assert (wait.settled, wait.answer, wait.answered_by, wait.refused) == (False, None, None, None)
    assert (wait.digest, wait.asked_at) == (digest_of(wait), NOW)


# ---- listing ----


def test_a_client_is_told_of_the_questions_of_its_tasks_and_of_those_shared_with_it() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task("a"), a_task("b", shared_with=["client-2"]), a_task("c", shared_with=["*"])))
    take(state, submitted(a_task("d"), client=CLIENT_2))
    for number, name in enumerate("dcba"):
        take(state, suspension({"id": "q"}, {"id": "r"}, task_id=name), later_s=number)

    assert [name for name, _ in listed(state)[::2]] == ["d", "c", "b", "a"][1:]
    assert [name for name, _ in listed(state, CLIENT_2)[::2]] == ["d", "c", "b"]
    assert [name for name, _ in listed(state, OPERATOR)[::2]] == ["d", "c", "b", "a"]
    assert listed(state, task="c", limit=1) == [("c", "q")]
    assert listed(state, root="d") == []


def test_tasks_that_have_asked_at_once_are_listed_once_each_also_if_they_are_several_ways_the_clients() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(*(a_task(name, shared_with=["*", "client"]) for name in "ab")))
    take(state, suspension(task_id="b"), suspension(task_id="a"))

    assert sorted(listed(state)) == [("a", "q"), ("b", "q")]


def test_the_questions_of_a_tree_are_listed_in_the_order_in_which_they_were_asked() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(a_task()))
    below = [child(0), child(1)]
    take(state, suspension(ASKS, delegation(*below), children=below), later_s=3)
    take(state, suspension(task_id="t/1"), later_s=4)
    take(state, suspension(task_id="t/0"), later_s=5)

    assert [name for name, _ in listed(state, root="t")] == ["t", "t/1", "t/0"]
    assert listed(state, root="t", limit=2) == [("t", "q"), ("t/1", "q")]


def test_a_listing_says_what_is_asked_and_is_bounded() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(*(a_task(f"t{number}") for number in range(8))))
    large = {"id": "q", "node": "n", "asks": "x" * 200_000, "expires_s": 5, "default": [1]}
    for number in range(8):
        take(state, suspension(large, task_id=f"t{number}"))

    step = take(state, to_me(CLIENT, Action.LIST_QUESTIONS, [{"listing": "l"}, {"listing": "m"}, {"listing": ""}]))

    [extra] = [extra for sending, extra in step.extras.items() if sending.action == Action.TASK_ACCEPTED]
    first = extra["questions"]["l"][0]
    assert {**first, "asks": None, "digest": None} == {
        "task_id": "t0", "interrupt_id": "q", "task_type": "sum", "root_id": "t0", "node": "n", "asks": None,
        "digest": None, "asked_at": "2026-01-01T12:00:00Z", "expires_at": "2026-01-01T12:00:05Z", "default": [1],
    }  # fmt: skip
    assert {listing: len(questions) for listing, questions in extra["questions"].items()} == {"l": 5, "m": 0}
    assert [refusal["reason"] for refusal in extra["refused"]] == ["listing: expected str of length >= 1"]
