"""LangGraph agents that call a model, for the tests of budgets."""

from __future__ import annotations

import asyncio
import operator
import os
from typing import Annotated, Any, TypedDict

from langchain_core.outputs import ChatResult
from langgraph.graph import START, StateGraph

from core.budget import Budget
from core.tasks import Task
from examples.offline_model import OfflineModel
from worker.authoring.delegation import delegate
from worker.authoring.handlers import agent

MODEL = OfflineModel()


class Talk(TypedDict):
    times: int
    said: Annotated[list[Any], operator.add]


def again(state: Talk) -> str:
    return "say" if len(state["said"]) < state["times"] else "__end__"


def say(state: Talk) -> dict[str, list[Any]]:
    return {"said": [MODEL.invoke("one two three").text]}


async def say_in_a_coroutine(state: Talk) -> dict[str, list[Any]]:
    return {"said": [(await MODEL.ainvoke("one two three")).text]}


async def block(state: Talk) -> dict[str, list[Any]]:
    return {"said": [MODEL.invoke("one two three").text]}


async def say_at_once(state: Talk) -> dict[str, list[Any]]:
    answers = await asyncio.gather(*(MODEL.ainvoke("one two three") for _ in range(state["times"])))
    return {"said": [answer.text for answer in answers]}


class Dying(OfflineModel):
    """Ends its process when it is called."""

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        os._exit(1)


def die(state: Talk) -> dict[str, list[Any]]:
    return {"said": [Dying().invoke("one two three").text]}


async def plan_after_a_death(state: Talk) -> dict[str, list[Any]]:
    payload: dict[str, Any] = {"times": 1, "said": []}
    [died] = await delegate.aio(Task(task_type="dies_while_it_spends", payload=payload), failures="return")
    [after] = await delegate.aio(Task(task_type="spends", payload=payload), failures="return")
    return {"said": [died.status, after.error and after.error.type]}


async def plan(state: Talk) -> dict[str, list[Any]]:
    """A call of its own, and those of two others, of which one has a share."""
    shared = Task(task_id="shared", task_type="spends", payload={"times": 2, "said": []}, budget=Budget(calls=1))
    free = Task(task_id="free", task_type="spends", payload={"times": 2, "said": []})
    outcomes = await delegate.aio(shared, free, failures="return")
    answer = await MODEL.ainvoke("what now")
    return {"said": [[outcome.status for outcome in outcomes], answer.text]}


def looped(node: Any) -> Any:
    builder = StateGraph(Talk).add_node("say", node).add_edge(START, "say")
    return builder.add_conditional_edges("say", again, ["say", "__end__"])


agent("spends", retries=2)(looped(say))
agent("spends_in_a_coroutine", retries=2)(looped(say_in_a_coroutine))
agent("blocks", retries=2)(looped(block))
agent("spends_at_once", retries=0)(StateGraph(Talk).add_node("say", say_at_once).add_edge(START, "say"))
agent("dies_while_it_spends", retries=0)(StateGraph(Talk).add_node("say", die).add_edge(START, "say"))
agent("plans_after_a_death")(StateGraph(Talk).add_node("plan", plan_after_a_death).add_edge(START, "plan"))
agent("plans", retries=2)(StateGraph(Talk).add_node("plan", plan).add_edge(START, "plan"))
