"""Who ran what when, read from the audit trails of the distributors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from core.redis_backend.keys import CellKeys
from core.redis_backend.shared_state import Runs
from worker.census.timeline import Attempt, Outcome

__all__ = ["attempts_in", "attempts_of"]

#: What a change says, as the outcome of the attempt before it; what is not here has lost its worker.
OUTCOMES: dict[str, Outcome] = {
    "completed": "completed", "waiting": "delegated", "failed": "failed", "cancelled": "cancelled",
}  # fmt: skip


async def attempts_of(source: Runs, distributor_ids: Sequence[str], types: Mapping[str, str]) -> list[Attempt]:
    """All attempts of the tasks in `types` (task id -> type) that the trails of these cells tell of."""
    changes: list[tuple[float, str, str]] = []
    for distributor_id in distributor_ids:
        [entries] = await source.run(("XRANGE", CellKeys(distributor_id).history, "-", "+"))
        for entry_id, flat in entries:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            if fields[b"side"] == b"distributor":
                at_s = int(entry_id.partition(b"-")[0]) / 1000
                changes += [(at_s, task, what) for task, what in orjson.loads(fields[b"changes"]).items()]
    return attempts_in(sorted(changes), types)


def attempts_in(changes: Sequence[tuple[float, str, str]], types: Mapping[str, str]) -> list[Attempt]:
    """The attempts in a trail of (seconds, task id, `STATUS [WORKER ATTEMPT]`), in the order in which they ended.

    One whose next change is neither an outcome nor there at all was lost with its worker.
    """
    begun: dict[str, tuple[float, str, int]] = {}
    attempts: list[Attempt] = []

    def ended(task_id: str, at_s: float, outcome: Outcome) -> None:
        if task_id in begun and task_id in types:
            started_s, worker, number = begun.pop(task_id)
            attempts.append(Attempt(task_id, types[task_id], worker, number, started_s, at_s, outcome))

    for at_s, task_id, what in changes:
        status, *who = what.split()
        ended(task_id, at_s, OUTCOMES.get(status, "lost"))
        if status == "in_progress" and len(who) == 2:
            begun[task_id] = (at_s, who[0], int(who[1]))
    return attempts
