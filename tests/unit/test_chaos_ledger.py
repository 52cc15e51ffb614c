"""What is written down, and what is read back from it and from a server's append-only file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.chaos.append_log import AppendLog, Transaction
from core.chaos.ledger import Ledger, read_ledger


def test_lines_of_several_ledgers_on_one_file_are_read_back_in_their_order(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as client, Ledger(tmp_path / "ledger") as worker:
        client.note("submitted", "t1")
        worker.note("began", "t1", attempt=1)
        client.note("fault", why="kill")

    entries = read_ledger(tmp_path / "ledger")

    assert [(entry.kind, entry.task_id, entry.facts) for entry in entries] == [
        ("submitted", "t1", {}),
        ("began", "t1", {"attempt": 1}),
        ("fault", "", {"why": "kill"}),
    ]
    assert [entry.pid for entry in entries] == [os.getpid()] * 3
    assert entries[0].at_ns <= entries[1].at_ns <= entries[2].at_ns


def test_a_ledger_that_nobody_has_begun_is_empty(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none") == []


def resp(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.fixture
def log(tmp_path: Path) -> AppendLog:
    """In two parts: a server appends to a new one after it has rewritten what was there."""
    (tmp_path / "appendonly.aof.manifest").write_text(
        "file appendonly.aof.1.base.aof seq 1 type b\n"
        "file appendonly.aof.0.incr.aof seq 0 type h\n"
        "file appendonly.aof.1.incr.aof seq 1 type i\n"
    )
    (tmp_path / "appendonly.aof.1.base.aof").write_bytes(
        b"#TS:7\r\n" + resp(b"SELECT", b"0") + resp(b"SET", b"a", b"1")
    )
    (tmp_path / "appendonly.aof.0.incr.aof").write_bytes(resp(b"SET", b"gone", b"0"))
    (tmp_path / "appendonly.aof.1.incr.aof").write_bytes(
        b"#TS:9\r\n" + resp(b"MULTI") + resp(b"set", b"b", b"2\r\n") + resp(b"UNLINK", b"a", b"c") + resp(b"EXEC")
    )
    return AppendLog(tmp_path)


def test_what_was_written_at_once_is_one_transaction(log: AppendLog) -> None:
    first, second = log.transactions()

    assert first == Transaction(7, ((b"SET", b"a", b"1"),))
    assert second == Transaction(9, ((b"SET", b"b", b"2\r\n"), (b"UNLINK", b"a", b"c")))
    assert list(second.named(b"SET")) == [(b"b", b"2\r\n")]
    assert list(second.deleted()) == [b"a", b"c"]


def test_only_what_was_written_since_is_read(log: AppendLog, tmp_path: Path) -> None:
    since = log.end()
    assert list(log.transactions(since)) == []

    with (tmp_path / "appendonly.aof.1.incr.aof").open("ab") as file:
        file.write(resp(b"SET", b"d", b"4"))

    assert [transaction.commands for transaction in log.transactions(since)] == [((b"SET", b"d", b"4"),)]


@pytest.mark.parametrize("cut", [1, 2, 7, 20, 60, 110])
def test_a_tail_that_was_not_finished_has_not_happened(log: AppendLog, tmp_path: Path, cut: int) -> None:
    part = tmp_path / "appendonly.aof.1.incr.aof"
    data = part.read_bytes()
    part.write_bytes(data[: max(0, len(data) - cut)])

    assert [transaction.at_s for transaction in log.transactions()] == [7]


def test_a_server_that_keeps_nothing_has_no_history(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "none")

    assert (log.end(), list(log.transactions())) == (0, [])
