"""Steps of a distributor, in few words: one is made, told something, and what it wants is looked at."""

from __future__ import annotations

from typing import Any

from core.roles import Action, Address, Role
from core.step import Step
from core.tasks import Task
from distributor.graph import build
from distributor.state import DistributorState
from tests.builders import (
    COORDINATOR,
    DISTRIBUTOR,
    WORKER,
    a_batch,
    a_beat,
    message_to,
    sent,
)

__all__ = [
    "WORKER_2", "a_distributor", "assigned", "failure", "handed", "outcome", "reports", "silence", "take",
    "to_me",
]  # fmt: skip

to_me = message_to(DISTRIBUTOR)
GRAPH = build()
WORKER_2 = Address(Role.WORKER, "worker-2")


def take(state: DistributorState, *messages: Any, **fields: Any) -> Step:
    return GRAPH.run(state, a_batch(*messages, **fields))


def a_distributor(*workers: Address, **beat: Any) -> DistributorState:
    state = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=1)
    take(state, beats=[a_beat(worker, **beat) for worker in workers])
    return state


def silence(state: DistributorState) -> Step:
    """The look at which who has said nothing since the start is taken for dead; there was one before."""
    take(state, later_s=4)
    return take(state, later_s=5)


def assigned(*tasks: Task) -> Any:
    return to_me(COORDINATOR, Action.ASSIGN_TASK, [task.evolve(root_id=task.task_id) for task in tasks])


def outcome(task_id: str, status: str = "completed", *, attempt: int = 1, worker: Address = WORKER, **more: Any) -> Any:
    return to_me(worker, Action.TASK_RESULT, [{"task_id": task_id, "attempt": attempt, "status": status, **more}])


def failure(task_id: str, *, attempt: int = 1, worker: Address = WORKER, retryable: bool = True, **more: Any) -> Any:
    error = {"type": "ValueError", "message": "no", "retryable": retryable}
    return outcome(task_id, "failed", attempt=attempt, worker=worker, error=error, **more)


def reports(step: Step) -> list[Any]:
    return sent(step, COORDINATOR, Action.TASK_RESULT)


def handed(step: Step, worker: Address = WORKER) -> list[tuple[str, int]]:
    """What a worker is given in this step: (task id, attempt)."""
    return [(item["task_id"], item["attempt"]) for item in sent(step, worker, Action.ASSIGN_TASK)]
