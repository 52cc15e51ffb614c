"""The model of the examples answers by its rules, the same every time, in every way in which a model is called."""

from __future__ import annotations

import functools
import operator
from enum import StrEnum
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel, Field

from examples.offline_model import OfflineModel


def add_numbers(a: int, b: int) -> int:
    """Adds two numbers, and gives their sum."""
    return a + b


def look_up(question: str, limit: int = 3) -> str:
    """Searches documents."""
    return question


MODEL = OfflineModel()


def test_it_calls_the_tool_that_a_message_is_about_and_says_what_was_found() -> None:
    model = MODEL.bind_tools([look_up, add_numbers])
    asked = [SystemMessage("be brief"), HumanMessage("What is the sum of 2 and -3?")]
    reply = model.invoke(asked)
    [call] = reply.tool_calls
    assert (call["name"], call["args"]) == ("add_numbers", {"a": 2, "b": -3})
    assert model.invoke(asked) == reply

    found = [*asked, reply, ToolMessage("-1", tool_call_id=call["id"]), ToolMessage("2", tool_call_id="x")]
    assert model.invoke(found).text == "I have found this: -1 2"


def test_without_a_tool_for_it_a_message_is_answered() -> None:
    assert MODEL.invoke("hello there").text == "You say: hello there"
    assert MODEL.bind_tools([add_numbers]).invoke("hello there").text == "You say: hello there"


async def test_it_streams_what_it_says_word_by_word() -> None:
    chunks: list[Any] = [chunk async for chunk in MODEL.astream("hello there")]
    assert [chunk.text for chunk in chunks if chunk.text] == ["You ", "say: ", "hello ", "there"]
    assert added(chunks).usage_metadata == MODEL.invoke("hello there").usage_metadata

    chunks = [chunk async for chunk in MODEL.bind_tools([add_numbers]).astream("the sum of 4 and 5")]
    assert [(call["name"], call["args"]) for call in added(chunks).tool_calls] == [("add_numbers", {"a": 4, "b": 5})]


def added(chunks: list[Any]) -> Any:
    return functools.reduce(operator.add, chunks)


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Step(BaseModel):
    title: str


class Plan(BaseModel):
    """A plan."""

    count: int
    mood: Mood
    certain: bool
    share: float
    steps: list[Step] = Field(description="what to do")
    note: str | None = None


def test_it_fills_any_schema() -> None:
    plan = MODEL.with_structured_output(Plan).invoke("read 3 of 4.5 pages; then it is bad")
    assert plan == Plan(
        count=3, mood=Mood.BAD, certain=True, share=4.5,
        steps=[Step(title="read 3 of 4.5 pages"), Step(title="then it is bad")],
    )  # fmt: skip
