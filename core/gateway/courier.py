"""Calls webhooks when tasks and runs have ended."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
from msgspec.structs import replace

from core.errors import AgentSystemError
from core.gateway.cron_runs import run_of_cron, thread_of_cron
from core.gateway.deliveries import Delivery
from core.gateway.hierarchy import Hierarchy, asks
from core.gateway.looks import Waits
from core.gateway.records import RunRecord
from core.gateway.run_events import error_of, interrupts_of
from core.gateway.run_life import run_told
from core.gateway.task_bodies import told_outcome
from core.gateway.webhook_calls import WebhookCalls
from core.tasks import Task, utc_now
from core.webhooks import MAX_TRIES, retry_delay_s

__all__ = ["Courier"]

log = logging.getLogger(__name__)

#: Seconds between two looks for deliveries that are due.
LOOK_S = 0.25
#: How soon, and how late at most, it is looked again whether a task has ended, s; a quarter of its age in between.
SOON_S, LATE_S = 0.25, 15.0
#: How long the record of a task may be missing, since it is about to be submitted, s.
MISSING_S = 60.0
#: Number of deliveries that are seen to at the same time.
AT_ONCE = 100


class Courier:
    """Delivers what has come due, until it is cancelled. What it does not finish, another one does."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._waits = Waits("webhooks wait", "webhooks_wait")

    async def run(self) -> None:
        async with WebhookCalls(self._hierarchy.webhooks) as calls, asyncio.TaskGroup() as group:
            under_way: set[asyncio.Task[None]] = set()
            while True:
                room = AT_ONCE - len(under_way)
                claimed = await self._claimed(room) if room else []
                for delivery in claimed:
                    task = group.create_task(self._attend(calls, delivery))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                if room and len(claimed) == room:
                    continue
                if room:
                    await asyncio.sleep(LOOK_S)
                else:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    async def _claimed(self, room: int) -> list[Delivery]:
        try:
            claimed, opened = await self._hierarchy.deliveries.claim(room)
            await self._take_on(opened)
        except AgentSystemError as error:
            self._waits.failed(error)
            return []
        self._waits.succeeded()
        return claimed

    async def _take_on(self, urls: dict[str, str]) -> None:
        """Takes on the deliveries of these tasks, which schedules have opened, for the next look."""
        if urls:
            tasks = await self._hierarchy.tasks(list(urls))
            await self._hierarchy.deliveries.take_on(
                *(_of_schedule(task_id, url, tasks.get(task_id)) for task_id, url in urls.items())
            )

    async def _attend(self, calls: WebhookCalls, delivery: Delivery) -> None:
        """Sees to one delivery. If that fails, it is claimed again when the claim has run out."""
        try:
            await self._deliver(calls, delivery)
        except AgentSystemError as error:
            self._waits.failed(error)
        except Exception as error:
            log.error("a webhook met a bug", exc_info=error, extra={"action": "webhook_failed"})

    async def _deliver(self, calls: WebhookCalls, delivery: Delivery) -> None:
        """Delivers, if the end has come, or looks again later."""
        deliveries = self._hierarchy.deliveries
        age_s = (utc_now() - delivery.created_at).total_seconds()
        run, task = await self._found(delivery)
        if task is None:
            if age_s > MISSING_S:
                await self._give_up(replace(delivery, problem="there is no record of it any more"))
            else:
                await deliveries.put_off(delivery, SOON_S)
            return
        if not _is_over(run, task):
            await deliveries.put_off(delivery, min(LATE_S, max(SOON_S, age_s / 4)))
            return
        body = told_outcome(task) if run is None else _told_run(run, task)
        problem = await calls.call(delivery.url, delivery.delivery_id, orjson.dumps(body))
        tried = replace(delivery, tries=delivery.tries + 1, problem=problem)
        if not problem:
            await deliveries.forget(delivery.delivery_id)
        elif tried.tries >= MAX_TRIES:
            await self._give_up(tried)
        else:
            await deliveries.put_off(tried, retry_delay_s(tried.delivery_id, tried.tries))

    async def _give_up(self, delivery: Delivery) -> None:
        log.warning(
            "webhook of %s is given up: %s",
            delivery.delivery_id,
            delivery.problem,
            extra={"action": "webhook_given_up"},
        )
        await self._hierarchy.deliveries.give_up(delivery)

    async def _found(self, delivery: Delivery) -> tuple[RunRecord | None, Task | None]:
        """The run that it is about, if it is about one, and the task."""
        if delivery.thread_id is None:
            return None, await self._hierarchy.task(delivery.delivery_id)
        run = await self._hierarchy.records.run(delivery.thread_id, delivery.delivery_id)
        task = await self._hierarchy.task(run.task_id if run else delivery.delivery_id)
        if run is None and task is not None and thread_of_cron(task) == delivery.thread_id:
            return run_of_cron(task, delivery.thread_id), task
        return run, task if run else None


def _of_schedule(task_id: str, url: str, task: Task | None) -> Delivery:
    thread_id, tenant = (thread_of_cron(task), task.tenant) if task else (None, None)
    return Delivery(delivery_id=task_id, url=url, thread_id=thread_id, tenant=tenant, created_at=utc_now())


def _is_over(run: RunRecord | None, task: Task) -> bool:
    """Whether a task has ended, or a run is over since it asks something. A task that goes on with an answer still asks
    the question before, until it has begun its next attempt."""
    if task.status.ended or run is None:
        return task.status.ended
    return run.until is not None or (asks(task) and task.attempt > run.attempts_before)


def _told_run(run: RunRecord, task: Task) -> dict[str, Any]:
    told = run_told(run, task)
    if run.until is None and not task.status.ended:
        told["interrupts"] = interrupts_of(task)
    return {**told, "values": task.result, "error": error_of(task) if run.until is None else None}
