"""The records of a hierarchy as a gateway reads them: only what its agents have sealed is shown to anybody.

A gateway with only a key of its own cannot check seals. It shows records as they are stored; how a task has ended, it
is told by the coordinator, signed.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from core.checkpoints.connection import GroupedConnection
from core.errors import BadSchedule, BadTask, PeerError, UnknownKey
from core.operations.event_feed import SealsOf
from core.operations.task_records import Unreadable, record_in
from core.quotas import Quota, stored_quota
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address, Role
from core.schedules import Schedule
from core.sealing import Sealed, Seals, bare
from core.stored import shown
from core.tasks import Task

__all__ = ["SealedRecords"]

log = logging.getLogger(__name__)

#: Names of records that are remembered as told, so that one that is looked at again and again is logged once.
REMEMBERED = 1000
#: What is said besides where a key is unknown, once, since it is so for all records and for one reason.
OTHER_KEY = (
    ", as others may be, none of which is shown: set the A2A_TOKEN_SECRET that the coordinator has (`agents doctor`)"
)


class SealedRecords:
    """Reads them, and passes over what somebody else has written to Redis. Raises TransportDown and ServerRefused."""

    def __init__(self, connection: GroupedConnection, coordinator_id: str, seals_of: SealsOf | None) -> None:
        """`seals_of`: gives the seals of an agent; None: they cannot be checked here."""
        self.rejected = 0  #: records that were passed over, once for each time that one was read
        self._run = connection.run
        self._keys = CoordinatorKeys(coordinator_id)
        self._seals_of = seals_of
        self._seals = seals_of(str(Address(Role.COORDINATOR, coordinator_id))) if seals_of else None
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
        """The task in a record of the coordinator, which is stored under that id."""
        return self._opened(Sealed.TASK, self._seals, task_id, record)

    def task_in_cell(self, distributor_id: str, task_id: bytes, record: Any) -> Task | Unreadable:
        """As `task_in`, of a record of a distributor."""
        seals = self._seals_of(str(Address(Role.DISTRIBUTOR, distributor_id))) if self._seals_of else None
        return self._opened(Sealed.CELL, seals, task_id, record)

    def _opened(self, kind: Sealed, seals: Seals | None, task_id: bytes, record: Any) -> Task | Unreadable:
        if seals is None or not isinstance(record, bytes):
            return record_in(task_id, record)
        try:
            return Task.from_json(seals.opened(kind, task_id.decode(), record))
        except (PeerError, BadTask, UnicodeDecodeError) as error:
            self._reject(kind, task_id, error)
            return Unreadable(shown(task_id), f"{error}"[:200])

    def quota_in(self, name: bytes, record: bytes) -> Quota | None:
        """The quota in a record; None: it is forged."""
        try:
            known = bare(record) if self._seals is None else self._seals.opened(Sealed.QUOTA, name.decode(), record)
        except (PeerError, UnicodeDecodeError) as error:
            self._reject(Sealed.QUOTA, name, error)
            return None
        return stored_quota(known)

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
        has_other_key = isinstance(error, UnknownKey)
        told = kind, b"" if has_other_key else name
        if told in self._told:
            return
        self._told[told] = None
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        cure = OTHER_KEY if has_other_key else ""
        said = {"action": "record_rejected", "record": shown(name)}
        log.warning("a record was rejected: %s%s", error, cure, extra=said)
