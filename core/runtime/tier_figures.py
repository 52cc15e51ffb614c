"""The figures of a tier that hands tasks out: what waits there, for how long, and how its children are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from core.agents import Health, Subordinate
from core.runtime.behaviour import Figures
from core.tasks import Priority, Task, TaskStatus

__all__ = ["handing_out"]

#: How full a child is: below so much of its window, it is called that.
LOADS = ((0.0, "idle"), (0.5, "light"), (1.0, "heavy"), (float("inf"), "full"))


def handing_out(
    counts: Mapping[str, int], gauges: Mapping[str, int], tasks: Iterable[Task], children: Iterable[Subordinate],
    now: datetime,
) -> Figures:  # fmt: skip
    """`tasks`: those that are open; `now`: by the server's clock. Costs a look at each task, so it is for who asks."""
    queued = dict.fromkeys(Priority, 0)
    oldest = now
    for task in tasks:
        if task.status is TaskStatus.PENDING:
            queued[task.priority] += 1
            oldest = min(oldest, _since(task, now))
    known = list(children)
    health = {health: sum(child.health is health for child in known) for health in Health}
    load = dict.fromkeys((name for _, name in LOADS), 0) | Counter(map(_load, known))
    return Figures(counts, gauges, queued, (now - oldest).total_seconds(), health, load)


def _since(task: Task, now: datetime) -> datetime:
    """Since when it could be handed out."""
    since = task.updated_at or task.created_at
    return min(now, max(since, task.not_before or since))


def _load(child: Subordinate) -> str:
    share = child.share
    return "idle" if share <= 0 else next(name for below, name in LOADS if share < below)
