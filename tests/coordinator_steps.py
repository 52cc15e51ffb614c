"""Steps of a coordinator, in few words: one is made, told something, and what it wants is looked at."""

from __future__ import annotations

import hashlib
from typing import Any

from msgspec import Raw

from coordinator.graph import build
from coordinator.state import CoordinatorState
from core.access import owner_of
from core.agents import Subordinate
from core.roles import Action, Address, Role
from core.status_reports import Beat
from core.step import Step, Table
from core.tasks import Task, TaskStatus
from tests.builders import CLIENT, COORDINATOR, DISTRIBUTOR, NOW, a_batch, a_beat, a_task, message_to

__all__ = [
    "CLIENT_2", "OTHER", "a_coordinator", "alive", "digest", "handed_out", "holding", "refusals", "result",
    "stored", "submitted", "take", "to_me",
]  # fmt: skip

to_me = message_to(COORDINATOR)
GRAPH = build()
OTHER = Address(Role.DISTRIBUTOR, "distributor-2")
CLIENT_2 = Address(Role.CLIENT, "client-2")


def take(state: CoordinatorState, *messages: Any, **fields: Any) -> Step:
    return GRAPH.run(state, a_batch(*messages, **fields))


def a_coordinator(*distributors: Address, capacity: int = 100, **fields: Any) -> CoordinatorState:
    state = CoordinatorState("coordinator-1", **fields)
    take(state, beats=[alive(distributor, capacity=capacity) for distributor in distributors])
    return state


def alive(distributor: Address, **fields: Any) -> Any:
    """A heartbeat of a distributor whose workers know all types of these tests."""
    skills = ["task:sum", "task:merge", "task:x", "task:agents.gather"]
    return a_beat(distributor, COORDINATOR, **{"capacity": 100, "capabilities": skills, **fields})


def submitted(*tasks: Any, client: Address = CLIENT, **fields: Any) -> Any:
    return to_me(client, Action.SUBMIT_TASK, tasks, **fields)


def result(task_id: str, status: str = "completed", sender: Address = DISTRIBUTOR, **fields: Any) -> Any:
    item = {"task_id": task_id, "status": status, "attempt": 1, "retry_count": 1, **fields}
    return to_me(sender, Action.TASK_RESULT, [item])


def refusals(step: Step, client: Address = CLIENT) -> list[Any]:
    [extra] = [extra for sending, extra in step.extras.items() if sending[:2] == (client, Action.TASK_ACCEPTED)]
    return list(extra.get("refused", []))


def stored(task: Task) -> dict[str, bytes]:
    """What is looked up for a batch: the record of a task that CLIENT has submitted."""
    return {task.task_id: task.evolve(owner=owner_of(CLIENT)).to_json()}


def digest(step: Step, task_id: str) -> str:
    written = step.writes[Table.TASKS, ""][task_id]
    assert isinstance(written, bytes)
    return hashlib.sha256(written).hexdigest()


def handed_out(task_id: str = "t", **fields: Any) -> Task:
    """A task that distributor-1 has."""
    return a_task(task_id).evolve(
        **{
            "payload_json": Raw(b"[1]"), "status": TaskStatus.IN_PROGRESS, "root_id": "t",
            "assigned_to": "distributor-1",
            "owner": "client:client-1", "reply_to": (str(CLIENT),), "updated_at": NOW, **fields,
        }
    )  # fmt: skip


def holding(*tasks: Task, **fields: Any) -> CoordinatorState:
    """A coordinator that has these tasks, some of them handed to distributor-1."""
    state = CoordinatorState("k", **fields)
    state.distributors["distributor-1"] = Subordinate(DISTRIBUTOR, 1, Beat(capacity=10), 0)
    for task in tasks:
        state.local_tasks[task.task_id] = task
        if task.assigned_to == "distributor-1":
            state.distributors["distributor-1"].take(task.task_id)
        if task.status is TaskStatus.WAITING:
            state.families[task.task_id] = {"t/0", "t/1"} & {other.task_id for other in tasks}
    return state
