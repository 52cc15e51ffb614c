"""For how long a failed attempt keeps a task from where it failed. A rule, without a clock.

A task that failed goes elsewhere if others have room. One that a worker has died with may be what killed it: it is
handed only to a worker that begins it at once, and for its last attempt apart from others of that kind (see
docs/design.md). Both end by themselves, so that nothing is shut out for ever by a guess.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from core.tasks import Task

__all__ = ["AVOIDED_MS", "SUSPECTED_MS", "excluded_until"]

#: How long after a failed attempt, ms, its worker is avoided; and how long a task is suspected that a worker has died
#: with.
AVOIDED_MS, SUSPECTED_MS = 120_000, 900_000


def excluded_until(task: Task) -> datetime | None:
    """Until when a task that waits for its next attempt counts as one that a worker has died with; None: it does not.
    Its record says when it was last lost."""
    if not task.errors or task.errors[-1].type != "worker_lost" or task.updated_at is None:
        return None
    return task.updated_at + timedelta(milliseconds=SUSPECTED_MS)
