"""Messages as they grow, in the stream mode `messages`."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from core.gateway.message_parts import MessageParts


class Odd(BaseMessage):
    type: str = "odd"


def told(*messages: BaseMessage) -> list[tuple[str, Any]]:
    parts = MessageParts()
    return [one for message in messages for one in parts.take([{**message.model_dump(), "type": message.type}, {}])]


def contents(events: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(name, data[0]["content"]) for name, data in events if name != "metadata"]


def test_parts_add_up_and_whole_messages_are_complete() -> None:
    events = told(
        AIMessageChunk(content="It ", id="m"), AIMessageChunk(content="rains.", id="m"), AIMessage("Yes.", id="n")
    )
    assert contents(events) == [("partial", "It "), ("partial", "It rains."), ("complete", "Yes.")]
    assert [[*data] for name, data in events if name == "metadata"] == [["m"], ["n"]]


def test_what_does_not_add_up_or_is_of_no_known_type_ends_no_stream() -> None:
    one, two = (
        AIMessageChunk(content=text, id="m", response_metadata={"at": place})
        for place, text in ((0.5, "a"), (1.5, "b"))
    )
    assert contents(told(one, two)) == [("partial", "a"), ("partial", "b")]
    assert contents(told(Odd(content="hm", id="o"))) == [("complete", "hm")]
