"""Threads that live for a time: deleted, or left with their newest state, when nobody has used them for so long."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from core.errors import AgentSystemError
from core.gateway.hierarchy import Hierarchy
from core.gateway.looks import Waits, look_again
from core.gateway.problems import Problem
from core.gateway.records import expires_at
from core.gateway.thread_life import delete_thread

__all__ = ["sweep_threads"]

log = logging.getLogger(__name__)

#: Seconds between two looks of all gateways together for threads whose time is over.
SWEEP_S = 2.0
#: How long a thread is left alone that has a run then, or could not be deleted.
LATER = timedelta(seconds=60)


async def sweep_threads(hierarchy: Hierarchy) -> None:
    """Sees to what has expired, again and again, until it is cancelled. What a crash leaves undone is found again."""

    async def sweep() -> None:
        for thread_id in await hierarchy.records.expired(SWEEP_S):
            await _end(hierarchy, thread_id)

    await look_again(sweep, SWEEP_S, Waits("threads expire later", "threads_expire_later"))


async def _end(hierarchy: Hierarchy, thread_id: str) -> None:
    thread = await hierarchy.records.thread(thread_id)
    at = expires_at(thread) if thread is not None else None
    if thread is None or at is None or at > datetime.now(UTC):
        await hierarchy.records.put_off(thread_id, at)
        return
    try:
        if thread.ttl_strategy == "delete":
            await delete_thread(hierarchy, thread)
        else:
            await hierarchy.threads.prune(thread_id)
            await hierarchy.records.put_off(thread_id, None)  # until it is used again
    except (Problem, AgentSystemError) as error:
        log.info("thread %s expires later: %s", thread_id, error, extra={"action": "thread_expires_later"})
        await hierarchy.records.put_off(thread_id, datetime.now(UTC) + LATER)
