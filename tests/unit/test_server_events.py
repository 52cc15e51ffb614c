"""How events are written that a server sends."""

from __future__ import annotations

import pytest

from core.gateway.sse import ServerEvent


@pytest.mark.parametrize("name", ["values|a\r\n\r\nevent: end", "values|a\nid: 7", "values|a\rdata: 1", "a\ud800"])
def test_no_name_and_no_data_begins_another_event(name: str) -> None:
    told = ServerEvent(name, {"text": "x\r\n\r\nevent: end"}, "1-0/1").encoded()
    assert [line.partition(b":")[0] for line in told.splitlines()] == [b"event", b"data", b"id", b""]
    assert told.endswith(b"\r\n\r\n")
    assert b"\r" not in told.replace(b"\r\n", b"")
