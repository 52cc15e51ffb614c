"""What the workers of the product's own scenario can do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec import Raw

from core.rehearsal.asking import resuming
from core.tasks import Task
from core.waits import Wait
from worker.authoring.context import Context, Spawn
from worker.authoring.registry import NO_DEFAULT, Handler, Handlers, Kind
from worker.authoring.suspension import Suspension

__all__ = ["user_code"]

MAX_ATTEMPTS = 3


def user_code(began: Counter[str], heard: dict[str, list[Any]]) -> Handlers:
    """The handlers; `began` counts, by task id, the attempts that really began, whoever lived to hear of them. `heard`
    is what runs that ask remember of themselves, by task id, as their checkpoints would."""

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
        ("asker", _asker(began, heard), True, True),
    ):
        handlers.add(_handler(name, function, "graph" if name == "asker" else "async", payload, context))
    return handlers


def _asker(began: Counter[str], heard: dict[str, list[Any]]) -> Callable[..., Any]:
    async def asker(payload: dict[str, Any], ctx: Context) -> Any:
        """Asks as many questions as it is told to, one after the other, and every second time has a child work beside
        the question. The answers come back, in order."""
        began[ctx.task_id] += 1
        await asyncio.sleep(payload["run_s"])
        answers, given = heard.setdefault(ctx.task_id, []), resuming.get()
        if (asked := str(len(answers))) in given:  # otherwise an earlier attempt has taken it
            answers.append(
                [given[asked], *(len(part["outcomes"]) for part in given.values() if isinstance(part, dict))]
            )
        if len(answers) == payload["asks"]:
            return answers
        waits = [Wait(id=f"{len(answers)}", asks_json=Raw(b"[%d]" % len(answers)), **_limit(payload))]
        if len(answers) % 2 == 0:
            return Suspension(tuple(waits))
        child = ctx.named(ctx.spawned, Task(task_type="noop", payload={"run_s": payload["run_s"]}))
        return Suspension((*waits, Wait(id="child", children=(child.task_id,))), (child,))

    return asker


def _limit(payload: dict[str, Any]) -> dict[str, Any]:
    return {"expires_s": payload["expires_s"], "default_json": Raw(b'"default"')} if "expires_s" in payload else {}


def _handler(name: str, function: Callable[..., Any], kind: Kind, wants_payload: bool, wants_context: bool) -> Handler:
    return Handler(
        task_type=name, function=function, kind=kind, timeout_s=60.0, max_attempts=MAX_ATTEMPTS, memory_mb=None,
        wants_payload=wants_payload, wants_context=wants_context, payload_default=NO_DEFAULT,
        payload_model=None, capabilities=(), module=__name__, qualname=name, source=f"{__file__}:{name}",
    )  # fmt: skip
