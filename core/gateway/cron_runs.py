"""What crons have begun, recorded as the runs of clients are. A firing opens a task, and knows nothing of runs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import msgspec

from core.checkpoints.connection import GroupedConnection
from core.gateway.looks import Waits, look_again
from core.gateway.records import RunRecord, ThreadRecord
from core.gateway.sealed_records import SealedRecords
from core.ports import Command
from core.redis_backend.gateway_keys import GatewayKeys
from core.redis_backend.keys import CoordinatorKeys
from core.schedules import Schedule, fired_since, firing_id, kept_thread
from core.tasks import Task

__all__ = ["CRON", "CronRuns", "run_of_cron", "thread_of_cron"]

#: Seconds between two looks at all crons; short beside TASK_RETENTION_S.
LOOK_S = 30.0
#: Under what name the metadata of a schedule have what makes it a cron.
CRON = "cron"
#: In the id of a run that a cron has begun.
CRON_MARK = "@"


def thread_of_cron(task: Task) -> str | None:
    """The thread in which a cron has begun a run, if the task is one; without a thread, it is one of its own."""
    of_a_client = "assistant_id" in task.run.config.get("metadata", {}) if task.run else False
    return (task.run.thread_id or task.task_id) if task.run and of_a_client and CRON_MARK in task.task_id else None


def run_of_cron(task: Task, thread_id: str) -> RunRecord:
    """The run that a cron has begun, as a client that has asked for it would have had it recorded."""
    assert task.run
    metadata = task.run.config.get("metadata", {})
    return RunRecord(
        run_id=task.task_id,
        thread_id=thread_id,
        task_id=task.task_id,
        assistant_id=metadata.get("assistant_id", ""),
        graph_id=task.task_type,
        created_at=task.created_at,
        metadata=metadata,
        tenant=task.tenant,
        multitask_strategy=task.run.multitask,
        modes=("values",),
    )


class CronRuns:
    """Records them once each, also those whose records are deleted later; whichever gateway looks. Raises TransportDown
    and ServerRefused. What a crash leaves undone is done by the next look, while the records of the tasks are there."""

    def __init__(self, connection: GroupedConnection, coordinator_id: str, sealed: SealedRecords) -> None:
        self._sealed = sealed
        self._run = connection.run
        self._keys = GatewayKeys(coordinator_id)
        self._coordinator = CoordinatorKeys(coordinator_id)

    async def note(self, cron_id: str, thread_id: str | None) -> None:
        """Notes that a cron begins runs in a thread; None: each in one of its own, which is kept."""
        await self._run(("SADD", self._key(thread_id), cron_id))

    async def of(self, thread_id: str) -> list[str]:
        """The crons that begin runs in a thread."""
        [found] = await self._run(("SMEMBERS", self._key(thread_id)))
        return [cron_id.decode() for cron_id in found]

    def _key(self, thread_id: str | None) -> str:
        return self._keys.kept_crons if thread_id is None else self._keys.crons(thread_id)

    async def look(self, thread_id: str | None) -> None:
        """Records what the crons of a thread have begun (None: those whose threads are kept) since somebody looked."""
        [cron_ids] = await self._run(("SMEMBERS", self._key(thread_id)))
        await self._look_at(cron_ids)

    async def look_at(self, *cron_ids: str) -> None:
        """Records what these crons (none given: all) have begun since somebody looked."""
        await self._look_at(cron_ids or (await self._run(("HKEYS", self._coordinator.schedules)))[0])

    async def _look_at(self, cron_ids: Collection[str | bytes]) -> None:
        if not cron_ids:
            return
        [stored] = await self._run(("HMGET", self._coordinator.schedules, *cron_ids))
        [seen] = await self._run(("HMGET", self._keys.seen_crons, *cron_ids))
        for cron_id, record, until in zip(cron_ids, stored, seen, strict=True):
            name = cron_id.encode() if isinstance(cron_id, str) else cron_id
            if record and (schedule := self._sealed.schedule_in(name, record)) is not None:
                await self._record(schedule, _moment(until))

    async def _record(self, schedule: Schedule, seen_until: datetime | None) -> None:
        cron = schedule.metadata.get(CRON)
        fired = fired_since(schedule, seen_until)
        if not fired or not isinstance(cron, dict) or not (schedule.keeps_threads or cron.get("thread_id")):
            return
        ids = [firing_id(schedule.name, at) for at in fired]
        writes: list[Command] = []
        for task in (await self._sealed.tasks(ids)).values():
            run = run_of_cron(task, (task.run and task.run.thread_id) or kept_thread(task.task_id))
            if schedule.keeps_threads:
                writes += self._thread(run, schedule.name)
            writes.append(("HSETNX", self._keys.runs(run.thread_id), run.run_id, msgspec.json.encode(run)))
        await self._run(*writes, ("HSET", self._keys.seen_crons, schedule.name, fired[-1].isoformat()))

    def _thread(self, run: RunRecord, cron_id: str) -> list[Command]:
        known = {"graph_id": run.graph_id, "assistant_id": run.assistant_id, "cron_id": cron_id}
        at = run.created_at
        thread = ThreadRecord(thread_id=run.thread_id, metadata=known, tenant=run.tenant, created_at=at, updated_at=at)
        return [
            ("HSETNX", self._keys.threads, thread.thread_id, msgspec.json.encode(thread)),
            ("ZADD", self._keys.recent, int(at.timestamp() * 1000), thread.thread_id),
        ]

    async def watch(self) -> None:
        """Looks at all crons again and again, until it is cancelled: the records of tasks do not wait until somebody
        asks for their runs."""
        await look_again(self.look_at, LOOK_S, Waits("the runs of crons wait", "crons_wait"))

    async def forget(self, cron_id: str, thread_id: str | None) -> None:
        """Forgets a cron that is deleted."""
        await self._run(("SREM", self._key(thread_id), cron_id), ("HDEL", self._keys.seen_crons, cron_id))


def _moment(stored: bytes | None) -> datetime | None:
    """A stored moment; None for what is none."""
    try:
        moment = datetime.fromisoformat((stored or b"").decode())
    except ValueError:
        return None
    return moment if moment.tzinfo else None
