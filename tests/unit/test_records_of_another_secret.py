"""What a gateway says of records that it cannot verify."""

from __future__ import annotations

import pytest

from core.checkpoints.connection import GroupedConnection
from core.config.settings import RedisConfig
from core.gateway.sealed_records import SealedRecords
from core.operations.task_records import Unreadable
from core.redis_client import Wire
from core.sealing import Sealed, Seals
from tests.builders import a_task


def test_a_gateway_with_another_secret_says_so_once_with_the_cure(caplog: pytest.LogCaptureFixture) -> None:
    ours, others = Seals({"00000000": bytes(32)}), Seals({"11111111": bytes(32)})
    records = SealedRecords(GroupedConnection(lambda: Wire(RedisConfig()), ()), "k", lambda _: ours)
    for name in ("a", "b", "c"):
        record = others.seal(Sealed.TASK, name, a_task(name).to_json())
        assert isinstance(records.task_in(name.encode(), record), Unreadable)
    assert records.rejected == 3
    [said] = [entry.getMessage() for entry in caplog.records]
    assert "set the A2A_TOKEN_SECRET that the coordinator has" in said

    forged = ours.seal(Sealed.TASK, "a", a_task("a").to_json())
    assert isinstance(records.task_in(b"d", forged), Unreadable)
    assert "is not what its writer has sealed" in caplog.records[-1].getMessage()
