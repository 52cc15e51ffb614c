"""What the workers of a simulated hierarchy can do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from core.tasks import Task
from worker.authoring.context import Context, Spawn
from worker.authoring.registry import NO_DEFAULT, Handler, Handlers

__all__ = ["user_code"]

MAX_ATTEMPTS = 3


def user_code(began: Counter[str]) -> Handlers:
    """The handlers; `began` counts, by task id, the attempts that really began, whoever lived to hear of them."""

    async def noop(payload: dict[str, Any], ctx: Context) -> Any:
        """Takes as long as it is told to and gives back its payload, and which attempt it was."""
        began[ctx.task_id] += 1
        await asyncio.sleep(payload["run_s"])
        return {**payload, "attempt": ctx.attempt}

    async def flaky(payload: dict[str, Any], ctx: Context) -> Any:
        """Fails as often as it is told to."""
        began[ctx.task_id] += 1
        await asyncio.sleep(payload["run_s"])
        if began[ctx.task_id] <= payload["fails"]:
            raise ValueError("not yet")
        return {**payload, "attempt": ctx.attempt}

    async def tree(payload: dict[str, Any], ctx: Context) -> Spawn:
        """Has as many children as it is told to, down to a depth; their number comes back."""
        began[ctx.task_id] += 1
        await asyncio.sleep(payload["run_s"])
        deeper = {**payload, "depth": payload["depth"] - 1}
        kind = "tree" if payload["depth"] > 1 else "noop"
        return ctx.spawn([Task(task_type=kind, payload=deeper) for _ in range(payload["width"])], then="count")

    async def count(ctx: Context) -> int:
        return 1 + sum(child.result if isinstance(child.result, int) else 1 for child in ctx.children)

    handlers = Handlers()
    for name, function, payload, context in (
        ("noop", noop, True, True),
        ("flaky", flaky, True, True),
        ("tree", tree, True, True),
        ("count", count, False, True),
    ):
        handlers.add(_handler(name, function, payload, context))
    return handlers


def _handler(name: str, function: Callable[..., Any], wants_payload: bool, wants_context: bool) -> Handler:
    return Handler(
        task_type=name, function=function, kind="async", timeout_s=60.0, max_attempts=MAX_ATTEMPTS, memory_mb=None,
        wants_payload=wants_payload, wants_context=wants_context, payload_default=NO_DEFAULT,
        payload_model=None, capabilities=(), module=__name__, qualname=name, source=f"{__file__}:{name}",
    )  # fmt: skip
