"""Handlers for a load that cost almost nothing. They record the beginning and the end of each execution.

chaos.work       waits `ms` milliseconds, as most tasks do
chaos.delegate   spawns `children` tasks of chaos.work; its result is the list of theirs

A result names the execution that returned it, so that it can be compared with the ledger. The ledger's path is in
CHAOS_LEDGER. Both are coroutines, so that a worker with no other handlers needs no child processes and starts quickly.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import cache
from typing import Any

from core.chaos.ledger import LEDGER_VARIABLE, Ledger
from core.tasks import Task
from worker import Context, Spawn, task

__all__ = ["RETRIES", "SHORT_MS", "began", "delegate", "ended", "ledger", "work"]

#: Milliseconds that a task takes: enough for faults to hit running tasks, and few enough for hundreds a second.
SHORT_MS = 3
#: Enough attempts for every task to survive the faults, so that a task which does not complete is a finding.
RETRIES = 50


@task("chaos.work", timeout=60, retries=RETRIES)
async def work(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """`ms`: how long it takes, in milliseconds."""
    result = began(payload, ctx)
    await asyncio.sleep(payload.get("ms", SHORT_MS) / 1000)
    return ended(result, ctx)


@task("chaos.delegate", timeout=60, retries=RETRIES)
async def delegate(payload: dict[str, Any], ctx: Context) -> Spawn:
    """`children`: the number of children, which all get this payload."""
    ended(began(payload, ctx), ctx)
    children = [Task(task_type="chaos.work", payload=payload) for _ in range(payload.get("children", 3))]
    return ctx.spawn(children, then="chaos.gather")


@task("chaos.gather", timeout=60, retries=RETRIES)
async def gather(ctx: Context) -> list[Any]:
    """How chaos.delegate goes on. Without it that would be `agents.gather`, which is given up after three attempts."""
    return ctx.results()


def began(payload: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Records the beginning of an execution. Returns its result: the execution, and the payload's number."""
    execution = f"{os.getpid()}.{time.monotonic_ns()}"
    ledger().note("began", ctx.task_id, attempt=ctx.attempt, execution=execution)
    return {"number": payload.get("number"), "attempt": ctx.attempt, "execution": execution}


def ended(result: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Records the end of the execution with this result, and returns the result."""
    ledger().note("ended", ctx.task_id, attempt=ctx.attempt, execution=result["execution"])
    return result


@cache
def ledger() -> Ledger:
    """The ledger of the run that this process belongs to."""
    return Ledger(os.environ[LEDGER_VARIABLE])
