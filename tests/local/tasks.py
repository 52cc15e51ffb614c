"""What the hierarchies of these tests can do."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from core.tasks import Task
from worker.authoring.context import Context, Spawn, current_context
from worker.authoring.delegation import delegate
from worker.authoring.handlers import agent, task

__all__ = ["Story"]


@task("local.wait", timeout=3600 * 24)
async def wait(payload: float) -> float:
    """Takes so many seconds."""
    await asyncio.sleep(payload)
    return payload


@task("local.flaky", retries=3, timeout=60)
async def flaky(payload: int, ctx: Context) -> int:
    """Fails as often as it is told to; gives back the attempt that did not."""
    if ctx.attempt <= payload:
        raise ValueError("not yet")
    return ctx.attempt


@task("local.slow", timeout=5, retries=1)
async def slow(payload: float) -> None:
    await asyncio.sleep(payload)


@task("local.plain", timeout=60)
def plain(payload: list[int], ctx: Context) -> int:
    ctx.progress(0.5, "half way")
    ctx.emit("custom", {"sum": sum(payload)})
    return sum(payload)


@task("local.stubborn", timeout=0.2, retries=0)
def stubborn(payload: float) -> None:
    time.sleep(payload)


@task("local.tree")
async def tree(payload: list[list[int]], ctx: Context) -> Spawn:
    return ctx.spawn([Task(task_type="local.plain", payload=numbers) for numbers in payload], then="local.sum")


@task("local.sum")
def total(ctx: Context) -> int:
    return sum(ctx.results())


class Story(TypedDict, total=False):
    title: str
    written: int
    approved: str


async def write(state: Story) -> Story:
    current_context().progress(0.5, "written")
    [length] = await delegate.aio(Task(task_type="local.plain", payload=[len(state["title"]), 1]))
    return {"written": length}


def approve(state: Story) -> Story:
    """A plain function, in a thread or at once."""
    return {"approved": interrupt({"publish": state["title"]})}


def story() -> Any:
    builder = StateGraph(Story).add_sequence([("write", write), ("approve", approve)])
    return builder.add_edge(START, "write")


agent("local.story", timeout=600)(story)
