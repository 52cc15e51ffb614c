"""Attempts as the audit trail tells of them."""

from __future__ import annotations

import pytest

from core.pictures.task_lanes import Attempt
from examples.census.trail import attempts_in

HANDED = (1.0, "t", "in_progress w1 1 review")


@pytest.mark.parametrize(
    ("changes", "attempts"),
    [
        ([HANDED, (3.0, "t", "completed w1 1 500")], [Attempt("t", "review", "w1", 1, 2.5, 3.0, "completed")]),
        ([HANDED, (3.0, "t", "waiting w1 1 500")], [Attempt("t", "review", "w1", 1, 2.5, 3.0, "delegated")]),
        ([HANDED, (3.0, "t", "pending worker_lost")], [Attempt("t", "review", "w1", 1, 1.0, 3.0, "lost")]),
        ([HANDED, (3.0, "t", "pending ValueError")], [Attempt("t", "review", "w1", 1, 1.0, 3.0, "failed")]),
        ([HANDED, (3.0, "t", "pending")], []),
        ([HANDED], []),
        ([(3.0, "t", "cancelled")], []),
    ],
    ids=["completed", "delegated", "lost", "failed", "not begun", "still runs", "never handed over"],
)
def test_an_attempt_ends_as_the_next_change_says(
    changes: list[tuple[float, str, str]], attempts: list[Attempt]
) -> None:
    assert attempts_in(changes) == attempts


def test_progress_does_not_begin_an_attempt_anew() -> None:
    trail = [HANDED, (2.0, "t", "in_progress w1 1 review"), (3.0, "t", "pending worker_lost")]
    assert [attempt.started_at for attempt in attempts_in(trail)] == [1.0]


def test_a_second_attempt_is_one_of_its_own() -> None:
    trail = [
        HANDED,
        (2.0, "t", "pending worker_lost"),
        (2.5, "t", "in_progress w2 2 review"),
        (4.0, "t", "completed w2 2 1000"),
    ]
    assert [(attempt.worker, attempt.attempt, attempt.outcome) for attempt in attempts_in(trail)] == [
        ("w1", 1, "lost"),
        ("w2", 2, "completed"),
    ]
