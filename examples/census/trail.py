"""Reads from the audit trails of the distributors which worker ran which attempt when."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import orjson

from core.pictures.task_lanes import Attempt, Outcome
from core.redis_backend.keys import CellKeys
from core.redis_backend.shared_state import Runs
from core.stored import pairs

__all__ = ["attempts_in", "attempts_of"]

#: The status in a change -> the outcome of the attempt before it.
OUTCOMES: dict[str, Outcome] = {
    "completed": "completed", "waiting": "delegated", "failed": "failed", "cancelled": "cancelled",
}  # fmt: skip

Changes = Sequence[tuple[float, str, str]]


async def attempts_of(source: Runs, distributor_ids: Sequence[str]) -> list[Attempt]:
    """All attempts in the trails of these cells."""
    changes: list[tuple[float, str, str]] = []
    for distributor_id in distributor_ids:
        [entries] = await source.run(("XRANGE", CellKeys(distributor_id).history, "-", "+"))
        for entry_id, flat in entries:
            fields = pairs(flat)
            if fields[b"side"] == b"distributor":
                at_s = int(entry_id.partition(b"-")[0]) / 1000
                told = orjson.loads(fields[b"changes"])
                changes += [(at_s, task, what) for task, several in told.items() for what in several]
    return attempts_in(
        sorted(changes, key=itemgetter(0))
    )  # the sort is stable, so changes of one entry keep their order


def attempts_in(changes: Changes) -> list[Attempt]:
    """The attempts in a trail of (seconds, task id, change), in the order in which they ended.

    A change is `in_progress WORKER ATTEMPT TYPE`, which is repeated for each progress report; `OUTCOME WORKER ATTEMPT
    RUN_MS`; `pending ERROR` after an attempt that failed or was lost; or `pending` after one that had not begun.
    """
    handed: dict[str, tuple[float, str, int, str]] = {}
    attempts = []
    for at_s, task_id, what in changes:
        status, *facts = what.split()
        if status == "in_progress":
            worker, number, task_type = facts[0], int(facts[1]), facts[2]
            if handed.get(task_id, (0.0, "", -1, ""))[2] != number:
                handed[task_id] = (at_s, worker, number, task_type)
            continue
        since_s, worker, number, task_type = handed.pop(task_id, (0.0, "", 0, ""))
        if not worker or what == "pending":
            continue
        outcome = OUTCOMES.get(status, "lost" if facts == ["worker_lost"] else "failed")
        started_s = at_s - int(facts[2]) / 1000 if len(facts) == 3 else since_s
        attempts.append(Attempt(task_id, task_type, worker, number, max(since_s, started_s), at_s, outcome))
    return attempts
