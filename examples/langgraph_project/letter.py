"""A graph that stops before its last node, for somebody to look at what it has written."""

from __future__ import annotations

from typing import TypedDict

from langgraph.graph import START, StateGraph


class Letter(TypedDict, total=False):
    to: str
    text: str
    sent: bool


def write(state: Letter) -> Letter:
    return {"text": f"Dear {state['to']}, it rains."}


def send(state: Letter) -> Letter:
    return {"sent": True}


builder = StateGraph(Letter)
builder.add_node("write", write)
builder.add_node("send", send)
builder.add_edge(START, "write")
builder.add_edge("write", "send")

graph = builder.compile(interrupt_before=["send"])
