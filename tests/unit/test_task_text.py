"""What people are told of a task."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import Raw

from core.cli.task_text import wait_text
from core.waits import Wait

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
ASKS: dict[str, Any] = {"id": "q", "node": "review", "asks_json": Raw(b'{"draft":"hello"}')}


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        (Wait(**ASKS), 'review asks q: {"draft": "hello"} (open)'),
        (Wait(**ASKS, expires_at=AT), 'review asks q: {"draft": "hello"} (open, until 2026-01-01 12:00:00 UTC)'),
        (
            Wait(**ASKS, answer_json=Raw(b'"yes"'), settled_at=AT, answered_by="client:ada"),
            'review asks q: {"draft": "hello"} (answered by client:ada: "yes")',
        ),
        (Wait(**ASKS, answer_json=Raw(b"0"), settled_at=AT), 'review asks q: {"draft": "hello"} (expired: 0)'),
        (Wait(id="d", node="lead", children=("t/0", "t/1")), "lead has delegated to t/0, t/1"),
        (Wait(id="d", settled_at=AT, refused="too deep"), "delegation refused: too deep"),
    ],
)
def test_what_a_task_waits_for_is_told_in_words(wait: Wait, words: str) -> None:
    assert wait_text(wait) == words
