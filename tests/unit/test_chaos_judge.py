"""The judge finds what must not happen: each test takes a run that was clean, and spoils one thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from core.chaos.append_log import Transaction
from core.chaos.judge import Verdict, judge
from core.chaos.ledger import Entry

C, D = "{coordinator:c}:", "{shared:distributor:d}:"
Command = tuple[bytes, ...]


def command(*parts: Any) -> Command:
    return tuple(part if isinstance(part, bytes) else str(part).encode() for part in parts)


def lease(prefix: str, epoch: int, process: str = "m/1/0", *, granted: bool = False) -> list[Command]:
    """What renews a lease, or takes it."""
    fields = {"epoch": epoch, "process": process, "expires_at": 12.0, "lease_ms": 2000}
    commands = [command("SET", f"{prefix}lease", json.dumps(fields))]
    return [*commands, command("SET", f"{prefix}fence", epoch)] if granted else commands


def commit(epoch: int, version: int, *commands: Command, process: str = "m/1/0", granted: bool = False) -> Transaction:
    """Of the coordinator."""
    head = command("HSET", f"{C}state", "version", version, "epoch", epoch)
    return Transaction(10, (*lease(C, epoch, process, granted=granted), head, *commands))


def record(status: str = "completed", **fields: Any) -> Command:
    fields = {"task_id": "t", "task_type": "chaos.work", "status": status, "result": {"execution": "1.1"}, **fields}
    return command("HSET", f"{C}tasks", "t", json.dumps(fields))


def reply() -> Command:
    body = {"payload": {"action": "task_result", "tasks": [{"task_id": "t"}]}}
    return command("XADD", f"{C}client:x", "1-0", "body", json.dumps(body))


LEDGER = (
    Entry("submitted", "t", 1, 1, {}),
    Entry("accepted", "t", 2, 1, {}),
    Entry("began", "t", 3, 2, {"execution": "1.1"}),
    Entry("ended", "t", 4, 2, {"execution": "1.1"}),
    Entry("ended", "u", 4, 2, {"execution": "1.2"}),
    Entry("result", "t", 5, 1, {"status": "completed", "result": {"execution": "1.1"}}),
)
WANTED = command("HSET", f"{D}tasks:wanted", "t", "{}")
ACCEPTED = commit(7, 1, record("pending", result=None), command("ZADD", f"{C}open", 1, "t"), granted=True)
ENDED = commit(7, 2, record(), command("ZREM", f"{C}open", "t"), reply())
EXPIRED = Transaction(12, (command("DEL", f"{C}lease"),))


def judged(*log: Transaction, ledger: Sequence[Entry] = LEDGER) -> Verdict:
    return judge(ledger, log)


def test_a_run_in_which_all_is_well_is_clean() -> None:
    verdict = judged(ACCEPTED, ENDED)

    assert verdict.clean, verdict
    assert (verdict.submitted, verdict.accepted, verdict.ended, verdict.executed) == (1, 1, 1, 1)
    assert verdict.replies == {"t": 1}
    assert [(grant.epoch, grant.pid) for grant in verdict.grants[f"{C}lease"]] == [(7, 1)]


def test_an_accepted_task_without_an_end_is_lost_and_still_there() -> None:
    verdict = judged(ACCEPTED)

    assert verdict.lost == ("t",)
    assert verdict.left == {f"{C}open": 1}


def test_an_end_that_the_client_was_not_told_of_is_untold() -> None:
    assert judged(ACCEPTED, ENDED, ledger=LEDGER[:-1]).untold == ("t",)


def test_an_end_on_record_twice_is_double() -> None:
    assert judged(ACCEPTED, ENDED, commit(7, 3, record())).double == ("t",)


def test_an_end_that_the_client_was_told_twice_is_double() -> None:
    assert judged(ACCEPTED, ENDED, ledger=(*LEDGER, LEDGER[-1])).double == ("t",)


def test_a_task_that_was_given_up_is_a_finding() -> None:
    assert judged(ACCEPTED, commit(7, 2, record("abandoned"), command("ZREM", f"{C}open", "t"))).failed == (
        "t abandoned",
    )


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ([ACCEPTED, commit(7, 3, record())], "3 was written after 1"),
        ([ACCEPTED, ENDED, commit(7, 2)], "2 was written after 2"),
        ([ACCEPTED, ENDED, commit(6, 3)], "wrote under fence 6 while the holder was (7, 'm/1/0')"),
        ([ACCEPTED, ENDED, EXPIRED, commit(7, 3)], "wrote under fence 7 while the holder was None"),
        ([ACCEPTED, ENDED, commit(7, 3, process="m/2/0")], "m/2/0 wrote under fence 7"),
        ([ACCEPTED, ENDED, commit(7, 3, process="m/2/0", granted=True)], "fence 7 was granted to m/2/0"),
        ([ACCEPTED, ENDED, Transaction(1, ENDED.commands[1:])], "a version was written outside of its lease"),
        ([ACCEPTED, ENDED, commit(7, 3, record("in_progress"))], "had ended as completed and became in_progress"),
        (
            [ACCEPTED, commit(7, 2, record(result={"execution": "9.9"}))],
            "execution 9.9, which the ledger does not know",
        ),
        ([ACCEPTED, commit(7, 2, record(result=None))], "completed with a result that names no execution"),
        ([ACCEPTED, commit(7, 2, record(result={"execution": "1.2"}))], "the result of t is that of u"),
        ([ACCEPTED, commit(7, 2, record(result=[]))], "told an end of t that is not the one on record"),
        ([ACCEPTED, commit(7, 2, record("failed"))], "told an end of t that is not the one on record"),
        ([ACCEPTED, ENDED, Transaction(10, (record(),))], "tasks was written outside of its lease"),
        ([ACCEPTED, Transaction(10, (command("ZREM", f"{C}open", "t"),))], "open was written outside of its lease"),
        ([ACCEPTED, ENDED, commit(7, 3, WANTED), Transaction(10, (WANTED,))], "tasks:wanted was written outside"),
        ([ACCEPTED, ENDED, commit(7, 3, command("HDEL", f"{D}tasks:actual", "t"))], "tasks:actual was written outside"),
    ],
)
def test_what_must_not_happen_is_named(log: list[Transaction], why: str) -> None:
    verdict = judged(*log)

    assert not verdict.clean
    assert why in " ".join(verdict.broken)


def test_a_successor_with_a_higher_fence_goes_on_with_the_versions() -> None:
    verdict = judged(
        ACCEPTED, EXPIRED, commit(8, 2, record(), command("ZREM", f"{C}open", "t"), process="m/2/0", granted=True)
    )

    assert verdict.clean, verdict
    assert [grant.pid for grant in verdict.grants[f"{C}lease"]] == [1, 2]


def test_each_half_of_a_cell_is_written_under_the_lease_of_its_writer() -> None:
    wanted = command("HSET", "shared:distributor:d", "coordinator_version", 1, "coordinator_epoch", 7)
    actual = command("HSET", "shared:distributor:d", "distributor_version", 1, "epoch", 3)

    assert judged(ACCEPTED, ENDED, commit(7, 3, wanted), Transaction(10, (*lease(D, 3, granted=True), actual))).clean
    assert "outside of its lease" in judged(ACCEPTED, ENDED, Transaction(10, (wanted,))).broken[0]
    assert "outside of its lease" in judged(ACCEPTED, ENDED, commit(7, 3, actual)).broken[0]


def test_what_a_cell_shows_of_tasks_that_ended_is_not_left_to_be_done() -> None:
    shown = [
        command("HSET", f"{D}tasks:actual", "t", json.dumps({"status": status}))
        for status in ("in_progress", "completed")
    ]

    taken = lease(D, 3, granted=True)
    assert judged(ACCEPTED, ENDED, Transaction(1, (*taken, shown[0]))).left == {f"{D}tasks:actual": 1}
    assert judged(ACCEPTED, ENDED, Transaction(1, (*taken, *shown))).clean


def test_a_message_that_nobody_has_dealt_with_is_left() -> None:
    message = command("XADD", f"{D}inbox", "5-0", "from", "x")

    assert judged(ACCEPTED, ENDED, Transaction(1, (message,))).left == {f"{D}inbox": 1}
    assert judged(ACCEPTED, ENDED, Transaction(1, (message, command("XDEL", f"{D}inbox", "5-0")))).clean


def test_the_verdict_says_what_it_found_in_a_line() -> None:
    text = str(judged(ACCEPTED, ledger=LEDGER[:-1]))

    assert text == (
        "1 accepted, 0 ended, 1 executions, 1 commits; 1 lost: t; 1 untold: t; 1 left: {coordinator:c}:open (1)"
    )
