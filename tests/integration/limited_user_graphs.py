"""LangGraph agents that call a model, for the tests of limits."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.outputs import ChatResult
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from examples.offline_model import OfflineModel
from worker.authoring.handlers import agent
from worker.authoring.model_limit import ModelLimit

MODEL = OfflineModel()
LIMITED = ModelLimit("of-code", requests_per_minute=100, tokens_per_minute=50_000).wrap(MODEL)


class Talk(TypedDict):
    said: Annotated[list[str], operator.add]


class TooOften(Exception):
    """As a provider's client raises it."""

    status_code = 429
    retry_after = 3600


class Refusing(OfflineModel):
    """Is called too often."""

    def _get_ls_params(self, stop: list[str] | None = None, **told: Any) -> Any:
        return {**super()._get_ls_params(stop, **told), "ls_provider": "offlinemodel"}

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise TooOften("too many")


def speak(state: Talk) -> dict[str, list[str]]:
    return {"said": [MODEL.invoke("one two three").text]}


async def speak_in_a_coroutine(state: Talk) -> dict[str, list[str]]:
    return {"said": [(await MODEL.ainvoke("one two three")).text]}


async def block(state: Talk) -> dict[str, list[str]]:
    return {"said": [MODEL.invoke("one two three").text]}


def refuse(state: Talk) -> dict[str, list[str]]:
    return {"said": [Refusing().invoke("one two three").text]}


async def speak_as_code_says(state: Talk) -> dict[str, list[str]]:
    return {"said": [(await LIMITED.ainvoke("one two three")).text]}


async def silence(state: Talk) -> dict[str, list[str]]:
    return {"said": ["-"]}


def often(_: Talk) -> list[Send]:
    return [Send("speak", {"said": []}) for _ in range(40)]


def of(node: Any) -> Any:
    return StateGraph(Talk).add_node("node", node).add_edge(START, "node")


agent("speaks", retries=0)(of(speak))
agent("speaks_in_a_coroutine", retries=0)(of(speak_in_a_coroutine))
agent("blocks_the_loop", retries=0)(of(block))
agent("is_refused", retries=0)(of(refuse))
agent("speaks_as_code_says", retries=0)(of(speak_as_code_says))
fan_out = StateGraph(Talk).add_node("speak", speak).add_conditional_edges(START, often, ["speak"])
agent("speaks_often", retries=0)(fan_out)
agent("silent", retries=0)(of(silence))
