"""The coordinator's records as a gateway reads them: only what the coordinator has sealed is shown to anybody.

A gateway with only a key of its own cannot check seals. It shows records as they are stored; how a task has ended, it
is told by the coordinator, signed.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from core.checkpoints.connection import GroupedConnection
from core.errors import BadSchedule, BadTask, PeerError
from core.operations.task_records import Unreadable, record_in
from core.redis_backend.keys import CoordinatorKeys
from core.schedules import Schedule
from core.sealing import Sealed, Seals, bare
from core.stored import shown
from core.tasks import Task

__all__ = ["SealedRecords"]

log = logging.getLogger(__name__)

#: Names of records that are remembered as told, so that one that is looked at again and again is logged once.
REMEMBERED = 1000


class SealedRecords:
    """Reads them, and passes over what somebody else has written to Redis. Raises TransportDown and ServerRefused."""

    def __init__(self, connection: GroupedConnection, coordinator_id: str, seals: Seals | None) -> None:
        """`seals`: the coordinator's; None: they cannot be checked here."""
        self.rejected = 0  #: records that were passed over, once for each time that one was read
        self._run = connection.run
        self._keys = CoordinatorKeys(coordinator_id)
        self._seals = seals
        self._told: OrderedDict[tuple[Sealed, bytes], None] = OrderedDict()

    async def tasks(self, task_ids: Sequence[str]) -> Mapping[str, Task]:
        """The tasks as they stand; those are missing that are not known, whose record has expired, or is forged."""
        if not task_ids:
            return {}
        [found] = await self._run(("HMGET", self._keys.tasks, *task_ids))
        tasks = {
            task_id: self.task_in(task_id.encode(), record)
            for task_id, record in zip(task_ids, found, strict=True)
            if record is not None
        }
        return {task_id: task for task_id, task in tasks.items() if isinstance(task, Task)}

    def task_in(self, task_id: bytes, record: Any) -> Task | Unreadable:
        """The task in a record, which is stored under that id."""
        if self._seals is None or not isinstance(record, bytes):
            return record_in(task_id, record)
        try:
            return Task.from_json(self._seals.opened(Sealed.TASK, task_id.decode(), record))
        except (PeerError, BadTask, UnicodeDecodeError) as error:
            self._reject(Sealed.TASK, task_id, error)
            return Unreadable(shown(task_id), f"{error}"[:200])

    def schedule_in(self, name: bytes, record: bytes) -> Schedule | None:
        """The schedule in a record; None: it is forged."""
        try:
            known = bare(record) if self._seals is None else self._seals.opened(Sealed.SCHEDULE, name.decode(), record)
            return Schedule.from_json(known)
        except (PeerError, BadSchedule, BadTask, UnicodeDecodeError) as error:
            self._reject(Sealed.SCHEDULE, name, error)
            return None

    def _reject(self, kind: Sealed, name: bytes, error: Exception) -> None:
        self.rejected += 1
        if (kind, name) in self._told:
            return
        self._told[kind, name] = None
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        log.warning("a record was rejected: %s", error, extra={"action": "record_rejected", "record": shown(name)})
