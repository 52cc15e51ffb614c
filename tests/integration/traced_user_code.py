"""Work that a test follows in its trace: a task whose first worker dies, and an agent that it asks."""

from __future__ import annotations

import os
import signal
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from core.tasks import Task
from worker.authoring.context import Context, Spawn
from worker.authoring.handlers import agent, task


@task("plan", retries=2)
async def plan(ctx: Context) -> Spawn:
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.spawn([Task(task_type="draft", payload={"messages": ["write"]})], then="sum_up")


@task("sum_up")
async def sum_up(ctx: Context) -> str | None:
    return ctx.traceparent


async def write(state: MessagesState) -> dict[str, Any]:
    model = GenericFakeChatModel(messages=iter([AIMessage("a draft")]))
    return {"messages": [(await model.ainvoke(state["messages"])).content]}


@agent("draft")
def draft() -> StateGraph[Any]:
    return StateGraph(MessagesState).add_node("write", write).add_edge(START, "write")
