"""LangGraph agents that ask through others, for the test of questions below a task."""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from core.errors import DelegationRefused
from core.tasks import Task
from worker.authoring.context import current_context
from worker.authoring.delegation import delegate
from worker.authoring.handlers import agent
from worker.authoring.questions import ask


class Answers(TypedDict, total=False):
    answers: Any


def asker(state: Answers) -> Answers:
    """Asks two things, one after the other, of which nobody answers the second."""
    return {"answers": [interrupt("first"), ask("second", expires_s=0.1, default="default")]}


async def boss(state: Answers) -> Answers:
    """Delegates, and what must not be delegated as well."""
    results = await delegate.aio(Task(task_type="asker", payload={}))
    try:
        delegate(Task(task_type="boss", payload={}))
    except DelegationRefused as error:
        return {"answers": [*results, str(error), len(current_context().children)]}
    return {}


agent("asker")(StateGraph(Answers).add_node("asker", asker).add_edge(START, "asker"))
agent("boss")(StateGraph(Answers).add_node("boss", boss).add_edge(START, "boss"))
