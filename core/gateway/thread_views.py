"""Threads, as clients of LangGraph's server know them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from core.gateway.hierarchy import Hierarchy
from core.gateway.records import ThreadRecord, expires_at
from core.gateway.run_life import newest_status
from core.gateway.state_views import interrupts_by_task
from core.json_values import as_json

__all__ = ["extracted", "fits", "thread_told", "threads_told", "ttl_told"]

#: The status of a thread while and after its last run, where that says it all.
STATUS = {"pending": "busy", "running": "busy", "error": "error", "timeout": "error"}
#: Threads that are read at the same time.
AT_ONCE = 32


async def thread_told(hierarchy: Hierarchy, thread: ThreadRecord) -> dict[str, Any]:
    """A thread, with its values and what it asks."""
    status = await newest_status(hierarchy, thread.thread_id)
    newest = await hierarchy.threads.snapshot(thread.thread_id)
    last = STATUS.get(status) if status else None
    fields = msgspec.to_builtins(thread)
    for internal in ("tenant", "ttl_minutes", "ttl_strategy"):
        fields.pop(internal, None)
    return {
        "metadata": {}, **fields,
        "status": last or ("interrupted" if newest is not None and newest.next else "idle"),
        "values": newest.values if newest is not None else None,
        "interrupts": interrupts_by_task(newest) if newest is not None else {},
    }  # fmt: skip


def ttl_told(thread: ThreadRecord) -> dict[str, Any] | None:
    """How long a thread lives, and until when unless it is used; None: for good."""
    if (expires := expires_at(thread)) is None:
        return None
    return {"strategy": thread.ttl_strategy, "ttl_minutes": thread.ttl_minutes, "expires_at": expires}


async def threads_told(hierarchy: Hierarchy, threads: Sequence[ThreadRecord]) -> list[dict[str, Any]]:
    """Each of them, in order."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(thread: ThreadRecord) -> dict[str, Any]:
        async with turns:
            return await thread_told(hierarchy, thread)

    return await asyncio.gather(*map(in_turn, threads))


def fits(told: Mapping[str, Any], status: str | None, values: Mapping[str, Any]) -> bool:
    """Whether a thread has this status, and such values."""
    if status not in (None, told["status"]):
        return False
    has: Any = orjson.loads(as_json(told["values"])) if values else {}
    return isinstance(has, dict) and all(name in has and has[name] == value for name, value in values.items())


def extracted(told: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """What stands at paths such as `values.messages[-1].content`; None: nothing does."""
    plain = orjson.loads(as_json(told))
    return {name: _at(plain, path) for name, path in paths.items()}


def _at(value: Any, path: str) -> Any:
    for name, index in re.findall(r"([^.\[\]]+)|\[(-?\d+)\]", path):
        try:
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value
