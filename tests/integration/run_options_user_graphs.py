"""LangGraph agents that use what a client says about their run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from pydantic import BaseModel, Field

from worker.authoring.handlers import agent


@dataclass
class User:
    name: str = "nobody"


class Seen(BaseModel):
    word: str
    seen: dict[str, Any] = Field(default_factory=dict)


def look(state: Seen, config: RunnableConfig, runtime: Runtime[User]) -> dict[str, Any]:
    assert isinstance(state, Seen)
    told = {name: config["configurable"].get(name) for name in ("model", "thread_id")}
    metadata = config.get("metadata", {})
    return {"seen": {**told, "tags": config.get("tags", []), "by": metadata.get("by"), "user": runtime.context.name}}


def looking() -> Any:
    graph: Any = StateGraph(Seen, context_schema=User)
    graph.add_node("look", look)
    graph.add_edge(START, "look")
    return graph


agent("looks")(looking())


@dataclass
class Talk:
    messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)


def answer(state: Any) -> dict[str, Any]:
    messages = state.messages if isinstance(state, Talk) else state["messages"]
    assert messages[0].type == "human"
    return {"messages": [AIMessage(str(messages[-1].content).upper())]}


@agent("talks")
@asynccontextmanager
async def talking(config: RunnableConfig) -> AsyncIterator[Any]:
    graph: Any = StateGraph(Talk if config["configurable"].get("state") == "dataclass" else MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    yield graph


@agent("counts")
@entrypoint()
async def count(words: list[str]) -> int:
    return len(words)


def again(state: dict[str, Any]) -> dict[str, Any]:
    return {"word": "again"}


@agent("repeats")
def loop() -> Any:
    graph: Any = StateGraph(Seen)
    graph.add_node("again", again)
    graph.add_edge(START, "again")
    graph.add_edge("again", "again")
    return graph
