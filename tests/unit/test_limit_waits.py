"""Runs that wait for a limit of models, as their worker counts them."""

from __future__ import annotations

import math
from typing import Any

from core.status_reports import MAX_CONCURRENCY
from core.tasks import Task, utc_now
from worker.authoring.handlers import HANDLERS, task
from worker.execution.attempt import Running
from worker.execution.deadlines import set_due
from worker.execution.limit_waits import LimitWaits

TYPE = "waits-for-a-limit"


@task(TYPE, timeout=60)
def waiting() -> None:
    """Is not called."""


def running(count: int, told: Any = None) -> dict[str, Running]:
    """Attempts that have begun at 0."""
    runs = [Running(Task(task_id=f"{number}", task_type=TYPE), utc_now(), 0.0, told) for number in range(count)]
    for run in runs:
        set_due(run, HANDLERS.get(TYPE))
    return {run.task.task_id: run for run in runs}


async def test_runs_that_wait_take_no_slots_within_what_a_worker_may_have() -> None:
    runs = running(30)
    waits = LimitWaits(runs, {f"{number}" for number in range(25)}, HANDLERS)
    over = [waits.begin(task_id, "openai") for task_id in [*runs, *runs, "gone"]]
    assert waits.slots(100) == 125  # the others have a process each, and keep theirs
    assert waits.slots(2) == 20
    assert waits.slots(MAX_CONCURRENCY - 1) == MAX_CONCURRENCY  # more is no heartbeat
    for end in over[:30]:
        end()
    assert waits.slots(100) == 125  # another call of each waits
    for end in over[30:]:
        end()
    assert waits.slots(100) == 100


async def test_the_timeout_of_a_run_stands_still_while_it_waits() -> None:
    told: list[dict[str, Any]] = []
    runs = running(1, lambda _, fields: told.append(fields))
    waits = LimitWaits(runs, set(), HANDLERS)
    over = [waits.begin("0", "openai") for _ in range(2)]
    assert [fields["data"] for fields in told] == [{"limit": "openai"}]  # once for all its calls
    assert runs["0"].due_s == math.inf
    for end in over:
        assert runs["0"].due_s == math.inf
        end()
    assert runs["0"].due_s == 60 + runs["0"].started_monotonic
    assert runs["0"].started_monotonic > 0
