"""Steps of a coordinator whose tasks are suspended, in few words."""

from __future__ import annotations

from typing import Any

from coordinator.rules import recall
from coordinator.state import CoordinatorState
from core.roles import Action, Address
from core.step import Step
from core.tasks import Task
from tests.builders import CLIENT, DISTRIBUTOR, a_task, sent
from tests.coordinator_steps import a_coordinator, refusals, result, submitted, take, to_me

__all__ = [
    "ASKS",
    "answering",
    "child",
    "delegation",
    "handed",
    "listed",
    "reasons",
    "restarted",
    "suspended",
    "suspension",
]

ASKS = {"id": "q", "node": "review", "asks": {"draft": "hello"}}


def suspended(*waits: dict[str, Any], children: list[Any] | None = None, **fields: Any) -> CoordinatorState:
    """A coordinator whose task `t` has asked this."""
    state = a_coordinator(DISTRIBUTOR, max_tree_depth=fields.pop("max_tree_depth", 32))
    take(state, submitted(a_task(**fields)))
    take(state, suspension(*waits, children=children))
    return state


def suspension(*waits: dict[str, Any], task_id: str = "t", children: list[Any] | None = None, **fields: Any) -> Any:
    return result(task_id, "suspended", waits=list(waits) or [ASKS], children=children, **fields)


def answering(value: Any, *, task_id: str = "t", to: str = "q", client: Address = CLIENT, **fields: Any) -> Any:
    item = {"task_id": task_id, "interrupt_id": to, "value": value, **fields}
    return to_me(client, Action.ANSWER_QUESTION, [item])


def reasons(step: Step, client: Address = CLIENT) -> list[str]:
    return [refusal["reason"] for refusal in refusals(step, client)]


def handed(step: Step) -> list[Any]:
    return sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)


def restarted(state: CoordinatorState) -> CoordinatorState:
    """A successor that has read the records of this coordinator."""
    successor = CoordinatorState("coordinator-1")
    records = [Task.from_json(task.to_json()) for task in state.local_tasks.values()]
    recall(successor, records, dict(state.digests), 0)
    successor.distributors |= state.distributors
    return successor


def listed(state: CoordinatorState, client: Address = CLIENT, **wanted: Any) -> list[tuple[str, str]]:
    step = take(state, to_me(client, Action.LIST_QUESTIONS, [{"listing": "l", **wanted}]))
    [extra] = [extra for sending, extra in step.extras.items() if sending[:2] == (client, Action.TASK_ACCEPTED)]
    return [(question["task_id"], question["interrupt_id"]) for question in extra["questions"]["l"]]


def delegation(*children: dict[str, Any], wait_id: str = "d") -> dict[str, Any]:
    return {"id": wait_id, "children": [child["task_id"] for child in children]}


def child(number: int, **fields: Any) -> dict[str, Any]:
    return {"task_id": f"t/{number}", "task_type": "x", **fields}
