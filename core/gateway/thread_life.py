"""Threads as gateways know them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

from msgspec.structs import replace

from core.agent_run import is_thread_id
from core.errors import UnknownSchedule
from core.gateway.hierarchy import Hierarchy, asks
from core.gateway.problems import Problem
from core.gateway.records import AssistantRecord, ThreadRecord

__all__ = ["delete_cron", "delete_thread", "known_thread", "new_thread", "no_thread", "thread_for_run"]

#: How long a worker may take to delete a thread, s.
DELETED_WITHIN_S = 30.0


async def new_thread(hierarchy: Hierarchy, thread_id: str | None = None) -> ThreadRecord:
    """A thread that is not recorded yet. Raises Problem: there can be no thread of that id."""
    if thread_id is not None and not is_thread_id(thread_id):
        raise Problem(422, "thread_id: takes 1 to 200 characters without control characters and braces")
    if thread_id is not None and hierarchy.tenant is not None:
        await _check_free(hierarchy, thread_id)
    now = datetime.now(UTC)
    return ThreadRecord(thread_id=thread_id or str(uuid4()), tenant=hierarchy.tenant, created_at=now, updated_at=now)


async def _check_free(hierarchy: Hierarchy, thread_id: str) -> None:
    """Raises Problem if a tenant cannot have a thread of that id: what a run of another one stores there, now or later,
    would be its."""
    try:
        UUID(thread_id)
    except ValueError:
        raise Problem(
            422, "thread_id: with a key or token of a tenant it is a UUID; leave it out to be given one"
        ) from None
    if await hierarchy.records.thread(thread_id) is None and await hierarchy.threads.history(thread_id, 1):
        raise Problem(409, f"thread_id: {thread_id!r} is taken; choose another one, or leave it out")


async def known_thread(hierarchy: Hierarchy, thread_id: str) -> ThreadRecord:
    """Raises Problem: there is no such thread."""
    thread = await hierarchy.records.thread(thread_id)
    if thread is None:
        raise no_thread(thread_id)
    return thread


def no_thread(thread_id: str) -> Problem:
    return Problem(404, f"there is no thread {thread_id[:80]!r}; create it, or give if_not_exists='create'")


async def thread_for_run(
    hierarchy: Hierarchy, thread_id: str, if_not_exists: Literal["create", "reject"], assistant: AssistantRecord
) -> ThreadRecord:
    """The thread for a run of an assistant, which is noted in it. Raises Problem: it is not there, and is not to be
    created."""
    known = {"graph_id": assistant.graph_id, "assistant_id": assistant.assistant_id}
    if if_not_exists == "create":
        thread = replace(await new_thread(hierarchy, thread_id), metadata=known)
        if await hierarchy.records.add_thread(thread):
            return thread
    noted = await hierarchy.records.change_thread(thread_id, metadata=known)
    if noted is None:
        raise no_thread(thread_id)
    return noted


async def delete_thread(hierarchy: Hierarchy, thread: ThreadRecord) -> None:
    """Deletes a thread, what its graphs remember, its runs, and the crons that begin some. One that waits for an
    answer is given up. If a worker has its graph, that is done in the line of the thread, so that no run comes between.
    Raises Problem and TaskRefused: it has a run that goes on."""
    runs = await hierarchy.records.runs(thread.thread_id)
    tasks = await hierarchy.tasks([run.task_id for run in runs if run.until is None])
    if any(not task.status.ended and not asks(task) for task in tasks.values()):
        raise Problem(409, f"thread {thread.thread_id!r} has a run; cancel it, or wait for its end")
    for cron_id in await hierarchy.crons.of(thread.thread_id):
        await delete_cron(hierarchy, cron_id, thread.thread_id)
    newest = await hierarchy.threads.history(thread.thread_id, 1)
    if newest and newest[0].graph in await hierarchy.graphs():
        await hierarchy.client.threads.delete.aio(
            thread.thread_id, graph=newest[0].graph, timeout_s=DELETED_WITHIN_S, tenant=thread.tenant
        )
    else:
        for task in tasks.values():
            if asks(task):
                await hierarchy.client.cancel.aio(task.task_id)
                await hierarchy.over(task.task_id)
        await hierarchy.client.threads.delete.aio(thread.thread_id)
    await hierarchy.records.delete_thread(thread.thread_id)


async def delete_cron(hierarchy: Hierarchy, cron_id: str, thread_id: str | None) -> None:
    """Deletes a cron, once what it has begun is recorded. `thread_id`: in which it begins runs; None: in others."""
    await hierarchy.crons.look_at(cron_id)
    with suppress(UnknownSchedule):
        await hierarchy.client.schedules.remove.aio(cron_id, tenant=hierarchy.tenant)
    await hierarchy.crons.forget(cron_id, thread_id)
