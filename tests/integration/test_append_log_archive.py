"""The archive of an append-only file that its server rewrites."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.chaos import archive
from core.chaos.append_log import AppendLog
from core.chaos.archive import Archive
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until


def test_what_was_written_before_a_rewrite_is_still_read_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_PART_BYTES", 2000)
    with RedisServer(bundled_server(), append_only=True) as server, server.connect() as client:
        kept = Archive(server.append_directory, server.directory / "archive")
        kept.collect()
        for number in range(300):
            client.set("k", number)
            if kept.wants_rewrite:
                parts = set(server.append_directory.glob("*.incr.aof"))
                client.bgrewriteaof()
                until(lambda: not parts & set(server.append_directory.glob("*.incr.aof")), "the old part is removed")  # noqa: B023
                kept.collect()
            if number == 150:
                server.kill()
                server.start()
        kept.collect()

        transactions = list(AppendLog(kept.directory).transactions())
        assert len(list(Path(kept.directory).glob("*.incr.aof"))) >= 4
    written = [
        int(command[2]) for transaction in transactions for command in transaction.commands if command[0] == b"SET"
    ]
    assert written == list(range(300))
