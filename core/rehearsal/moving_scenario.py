"""Tasks that wait behind long ones while others idle: they are taken back, by distributors and by the coordinator."""

from __future__ import annotations

from collections.abc import Iterator

from core.rehearsal.own_handlers import user_code
from core.rehearsal.scenario import Rehearsal, scenario
from core.tasks import TaskStatus

__all__ = ["moving"]


@scenario(handlers=lambda world: user_code(world.began, world.heard))
def moving(rehearsal: Rehearsal) -> Iterator[None]:
    """Bursts of short tasks with a few long ones among them, so that some workers are done early and get what waits
    elsewhere, under every kind of fault."""
    chance = rehearsal.chance
    for _ in range(chance.choice([1, 1, 2])):
        at_s = rehearsal.moment()
        burst = [
            rehearsal.task("noop", {"run_s": chance.choice([0.2, 0.2, 0.5, 4.0, 9.0])}, at_s)
            for _ in range(chance.randrange(16, 48))
        ]
        rehearsal.submit_together(burst, at_s)
    for _ in range(chance.choice([0, 0, 4])):
        rehearsal.cancel()
    yield
    plan = rehearsal.run.plan
    calm = not plan.strength and all(happening.kind in ("submit", "cancel") for happening in plan.happenings)
    for task_id, ended in rehearsal.ended.items():
        if ended.status is TaskStatus.COMPLETED:
            assert ended.result == {**rehearsal.given[task_id].payload, "attempt": ended.attempt}, task_id
            began = rehearsal.run.world.began[task_id]
            assert began == 1 if calm else began, f"{task_id} completed, and was begun {began} time(s)"
        else:
            assert ended.status in (TaskStatus.CANCELLED, TaskStatus.ABANDONED), f"{task_id} ended as {ended.status}"
