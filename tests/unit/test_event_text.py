"""An event in a line, for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from core.agent_event import AgentEvent
from core.cli.event_text import WORDS, event_line
from core.event_types import EventLevel, EventType, event_type

ATTEMPT = {"worker": "w", "attempt": 2}
AT = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("task_submitted", {"task_type": "sum", "client": "client:bob"}, "sum was submitted by client:bob"),
        ("task_returned", {"distributor": "d"}, "came back from d"),
        ("task_returned", {"distributor": "d", "reason": "it had not arrived"}, "came back from d: it had not arrived"),
        ("task_progress", {"progress": {"fraction": 0.07, "note": "page 3"}}, "is at 7 %, page 3"),
        ("task_waiting", {"children": 1}, "waits for 1 child"),
        ("task_waiting", {"children": 3}, "waits for 3 children"),
        ("task_waiting", {}, "waits"),
        (
            "attempt_completed",
            {"worker": "w", "attempt": 2, "run_ms": 12.4},
            "attempt 2 on w has completed, after 12 ms",
        ),
        (
            "attempt_failed",
            {"worker": "w", "attempt": 2, "error": "ValueError"},
            "attempt 2 on w has failed: ValueError",
        ),
        ("attempt_lost", {"worker": "w", "attempt": 1}, "attempt 1 was lost with w"),
        ("attempt_lost", {}, "attempt ? was lost with ?"),
        ("custom", {"page": 7}, 'custom {"page": 7}'),
        ("task_output", {"text": "\x1b[31mred\x1b[0m"}, "says: \\x1b[31mred\\x1b[0m"),
    ],
)
def test_a_line_says_when_whom_and_what_in_words(kind: str, data: dict[str, Any], words: str) -> None:
    event = AgentEvent(event_type(kind), "k", timestamp=AT, task_id="t", data=data)

    assert event_line(event)[0] == f"03:04:05.678  t  {words}"
    assert event_line(event, subject=False)[0] == f"03:04:05.678  {words}"


def test_an_event_of_an_agent_is_about_that_agent_and_not_about_who_tells() -> None:
    event = AgentEvent(
        EventType.AGENT_LOST, "k", timestamp=AT, agent_id="distributor:d", data={"agent": "worker:w", "in_flight": 2}
    )
    assert event_line(event) == ("03:04:05.678  worker:w  is gone; it had 2 tasks", "red")


def test_what_every_hierarchy_tells_is_told_in_words() -> None:
    told = {kind for kind in EventType if kind.level in (EventLevel.AGENTS, EventLevel.TASKS)}
    assert told - WORDS.keys() == {EventType.AGENT_STATUS_CHANGED}
