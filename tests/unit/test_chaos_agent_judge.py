"""The judge finds what must not happen to runs of graphs: each test takes a run that was clean, and spoils one
thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from core.chaos.append_log import Transaction
from core.chaos.judge import Verdict, judge
from core.chaos.ledger import Entry
from core.checkpoints.encryption import Plain
from tests.unit.test_chaos_judge import C, Command, command, commit

STATE: dict[str, Any] = {"number": 1, "nodes": [["draft", "7.1"], ["ask", "8.3"], ["send", "8.4"]], "answers": ["yes"]}


def record(status: str = "completed", **fields: Any) -> Command:
    fields = {"task_id": "t", "task_type": "chaos.asks", "status": status, "attempt": 3, "result": STATE, **fields}
    return command("HSET", f"{C}tasks", "t", json.dumps(fields))


def ended(result: Any = STATE, **fields: Any) -> Transaction:
    return commit(1, 2, record(result=result, **fields))


def checkpoint(attempt: int, fence: int | None = None) -> Transaction:
    """What an attempt stores, and the fence that it raises with it."""
    typed = ("msgpack", msgspec.msgpack.encode(({}, {"attempt": attempt})))
    body = Plain().seal(msgspec.msgpack.encode(typed), "t")
    raised = [command("SET", "{thread:t}:fence", f"0 {fence}")] if fence else []
    return Transaction(10, (*raised, command("HSET", "{thread:t}:values", b"h\x00c1", b"", b"c\x00c1", body)))


def told(entry: str, attempt: int, *chunks: str) -> Transaction:
    added = command("XADD", f"{C}stream:t", "MAXLEN", "~", 9, entry, "attempt", attempt, "chunks", json.dumps(chunks))
    return Transaction(10, (added,))


def node(name: str, attempt: int, execution: str, at_ns: int) -> Entry:
    facts = {"node": name, "attempt": attempt, "execution": execution}
    return Entry("node", "t", at_ns, int(execution.partition(".")[0]), facts)


def answered(answer: str = "yes", question: str = "q") -> Entry:
    return Entry("answered", "t", 15, 1, {"question": question, "answer": answer})


def streamed(*chunks: str, ends: Sequence[str] = ("completed",)) -> Entry:
    return Entry("streamed", "t", 30, 1, {"chunks": list(chunks), "ends": list(ends)})


def result(value: Any = STATE) -> Entry:
    return Entry("result", "t", 29, 1, {"status": "completed", "result": value})


#: The run is suspended in its first attempt; the second is lost with its process, 7, and the third ends it in 8.
NODES = (
    node("draft", 1, "7.1", 10),
    node("ask", 1, "7.2", 11),
    node("ask", 2, "7.9", 20),
    node("ask", 3, "8.3", 21),
    node("send", 3, "8.4", 22),
)
HEARD = streamed("5-0/0", "6-0/0", "6-0/1")
LOG = (
    commit(1, 1, record("pending", result=None), granted=True),
    checkpoint(1, fence=1),
    told("5-0", 1, "draft"),
    checkpoint(3, fence=3),
    told("6-0", 3, "ask", "send"),
    ended(),
)
CLIENT = (Entry("submitted", "t", 1, 1, {}), Entry("accepted", "t", 2, 1, {}), answered(), result(), HEARD)


def judged(
    log: Sequence[Transaction] = LOG, client: Sequence[Entry] = CLIENT, nodes: Sequence[Entry] = NODES
) -> Verdict:
    return judge((*client, *nodes), log)


def without(entry: Entry, *others: Entry) -> tuple[Entry, ...]:
    """What the client has recorded, with `others` in the place of an entry."""
    return (*(each for each in CLIENT if each is not entry), *others)


def test_a_run_of_which_an_attempt_was_lost_is_clean_and_counted() -> None:
    verdict = judged()

    assert verdict.clean, verdict
    counts = verdict.agents
    assert (counts.runs, counts.nodes, counts.answers, counts.checkpoints, counts.chunks) == (1, 5, 1, 2, 3)


def test_a_checkpoint_of_an_attempt_that_was_replaced_is_found() -> None:
    found = judged((*LOG, checkpoint(1))).broken
    assert found == ("thread t: attempt 1 wrote a checkpoint while the fence was '0 3'",)


def test_a_checkpoint_without_a_fence_is_found() -> None:
    assert "while it had no fence" in judged((LOG[0], checkpoint(1), *LOG[1:])).broken[0]


def test_a_question_that_is_left_when_all_have_ended_is_found() -> None:
    asked = commit(1, 3, command("ZADD", f"{C}questions", 5, "t"))
    assert judged((*LOG, asked)).left == {f"{C}questions": 1}


@pytest.mark.parametrize(
    ("again", "why"),
    [
        (node("draft", 2, "9.9", 19), "t had reached ask, and attempt 2 ran draft"),
        (node("send", 3, "8.5", 23), "t had reached ask, and attempt 3 ran ask, send, send"),
        (node("draft", 3, "8.5", 23), "t had reached ask, and attempt 3 ran ask, send, draft"),
        (node("ask", 3, "9.9", 23), "t had reached send, and attempt 3 ran ask"),  # in another process
    ],
)
def test_a_finished_node_that_runs_again_is_found(again: Entry, why: str) -> None:
    assert judged(nodes=(*NODES, again)).broken == (why,)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (STATE | {"nodes": STATE["nodes"][:2]}, "the state of t has the nodes draft, ask"),
        (STATE | {"nodes": [*STATE["nodes"], ["send", "8.4"]]}, "the state of t has the nodes draft, ask, send, send"),
        (STATE | {"nodes": [["draft", "9.9"], *STATE["nodes"][1:]]}, "execution 9.9 of draft, which the ledger"),
        (STATE | {"answers": []}, "t was answered ['yes'] and went on with []"),
        (STATE | {"answers": ["yes", "yes"]}, "t was answered ['yes'] and went on with ['yes', 'yes']"),
        (STATE | {"parts": [1]}, "t went on with other results than those of its children"),
    ],
)
def test_a_state_that_cannot_be_is_found(state: Any, why: str) -> None:
    log = (*LOG[:-1], ended(state))
    client = without(CLIENT[3], result(state))
    assert why in " ".join(judged(log, client).broken)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ((answered("no"),), "t was answered ['no'] and went on with ['yes']"),
        ((), "t was answered [] and went on with ['yes']"),
        ((answered(), answered("no")), "question q of t took 2 answers"),
    ],
)
def test_an_answer_that_is_lost_or_taken_beside_another_is_found(answers: Sequence[Entry], why: str) -> None:
    assert why in judged(client=without(CLIENT[2], *answers)).broken


@pytest.mark.parametrize(
    ("heard", "why"),
    [
        ((), "told 0 ends"),
        ((streamed("5-0/0", "6-0/0", "6-0/1", ends=("completed", "completed")),), "told 2 ends"),
        ((streamed("5-0/0", "6-0/0", "6-0/1", ends=("failed",)),), "told 1 ends: failed"),
        ((streamed("5-0/0", "6-0/1"),), "told 2 chunks, which are not the 3 that were written"),
        ((streamed("5-0/0", "6-0/0"),), "told 2 chunks, which are not the 3 that were written"),
        ((streamed("5-0/0", "5-0/0", "6-0/0", "6-0/1"),), "told 4 chunks, which are not the 3 that were written"),
        ((streamed("6-0/0", "6-0/1", "5-0/0"),), "told 3 chunks, which are not the 3 that were written"),
    ],
)
def test_a_stream_with_a_gap_or_without_its_one_end_is_found(heard: Sequence[Entry], why: str) -> None:
    assert why in " ".join(judged(client=without(HEARD, *heard)).broken)


def test_what_a_replaced_attempt_tells_between_is_not_heard() -> None:
    log, heard = (*LOG, told("6-5", 1, "late"), told("7-0", 3, "more")), ["5-0/0", "6-0/0", "6-0/1", "7-0/0"]
    assert judged(log, client=without(HEARD, streamed(*heard))).clean
    assert not judged(log, client=without(HEARD, streamed(*heard[:3], "6-5/0", heard[3]))).clean


def test_what_a_replaced_attempt_tells_after_the_end_need_not_be_heard() -> None:
    assert judged((*LOG, told("7-0", 2, "ask"))).clean
