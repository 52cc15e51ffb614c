"""How tasks stand, for a client that has not been told: a reply may have been trimmed, or gone to an earlier reader.

A client with the root secret reads the coordinator's records and checks their seals, even while there is no
coordinator. A client with only its own key, or whose Redis user may not read them, asks the coordinator, which signs
its answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import orjson

from core.access import may_touch
from core.client.endings import Endings
from core.client.requests import Requests
from core.errors import BadTask, PeerError, TaskTimeout, TransportDown, WorldError
from core.ports import Command
from core.redis_backend.clock import monotonic_s
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Action, Address
from core.run_keys import RunKey
from core.sealing import Sealed, Seals
from core.signing import KeyRing
from core.tasks import Task

__all__ = ["LOOKED_UP_AT_ONCE", "LOOK_UP_S", "LookUp", "Replicas"]

log = logging.getLogger(__name__)

#: Seconds without news after which tasks are looked up. Only the message about an end can be lost, not the end.
LOOK_UP_S = 5.0
#: Records read in one look, or asked for, oldest request first, since an answer has a bound.
LOOKED_UP_AT_ONCE, ASKED_FOR_AT_ONCE = 500, 16
#: How long the server waits for its replicas, and how long the key of the question stays.
REPLICAS_MS, MARK_MS = 1000, 60_000


class Replicas:
    """Tells whether a read is on enough replicas that no failover takes it back."""

    def __init__(self, count: int, mark: str) -> None:
        self.count = count
        self._mark = mark

    def question(self) -> list[Command]:
        """The commands to send after a read whose outcome counts only once it is on replicas, on the same connection.
        Replicas take all writes in order, so one that has a write from after the read has everything that was read."""
        if not self.count:
            return []
        return [("SET", self._mark, "", "PX", MARK_MS), ("WAIT", self.count, REPLICAS_MS)]

    def confirmed(self, answer: Sequence[Any]) -> bool:
        """Whether the replicas have confirmed it; True when no replica is asked."""
        if not answer:
            return True
        written, replicas = answer
        return written == b"OK" and isinstance(replicas, int) and replicas >= self.count


class LookUp:
    """Looks up the tasks of one client. `signing`: the keys of the coordinator; None: the client does not have them."""

    def __init__(
        self,
        me: Address,
        keys: CoordinatorKeys,
        requests: Requests,
        endings: Endings,
        replicas: Replicas,
        signing: KeyRing | None,
    ) -> None:
        self._me = me
        self._tasks = keys.tasks
        self._requests = requests
        self._endings = endings
        self._replicas = replicas
        self._signing = signing
        self._seals = signing.seals if signing else None
        self._missing: dict[str, float] = {}  # tasks without a record, and since when (monotonic)

    def forget(self, task_id: str) -> None:
        """Forgets a task that nobody waits for any more."""
        self._missing.pop(task_id, None)

    async def look(self, task_ids: Sequence[str]) -> set[str]:
        """Takes the first of these that have ended. Returns the ids that have no record now and had none in an earlier
        look, by any call; empty when Redis is away."""
        if not task_ids:
            return set()
        if self._seals is None:
            return await self._ask(task_ids[:ASKED_FOR_AT_ONCE])
        return await self._read(task_ids[:LOOKED_UP_AT_ONCE], self._seals)

    async def run_keys(self, task_id: str) -> list[RunKey]:
        """The keys of what the run of a task tells, by the owner that its record names; none: this client cannot tell
        so. Raises TransportDown."""
        if self._signing is None or self._seals is None:
            return []
        [sealed] = await self._requests.run(("HGET", self._tasks, task_id))
        task = self._opened(task_id, sealed, self._seals) if isinstance(sealed, bytes) else None
        return self._signing.run_keys(task_id, Address.parse(task.owner) if task.owner else None) if task else []

    async def _read(self, task_ids: Sequence[str], seals: Seals) -> set[str]:
        try:
            look = ("HMGET", self._tasks, *task_ids)
            records, *confirmed = await self._requests.run(look, *self._replicas.question())
        except TransportDown:
            return set()  # the reader reports it, and reconnects
        if str(records).startswith("NOPERM"):
            self._seals = None
        if not isinstance(records, list) or not self._replicas.confirmed(confirmed):
            return set()
        found = {
            task_id: self._opened(task_id, sealed, seals) for task_id, sealed in zip(task_ids, records, strict=True)
        }
        self._endings.confirm(task_id for task_id, task in found.items() if task is not None)
        now_s = monotonic_s()
        for task_id, task in found.items():
            if task is None:
                self._missing.setdefault(task_id, now_s)
                continue
            self._missing.pop(task_id, None)
            if task.status.ended:
                self._endings.tell(task)
        return {
            task_id
            for task_id, task in found.items()
            if task is None and now_s - self._missing[task_id] >= LOOK_UP_S / 2
        }

    def _opened(self, task_id: str, sealed: bytes | None, seals: Seals) -> Task | None:
        """The task in a record; None: there is none, this client may not see it, or somebody else wrote it. The
        coordinator's answer about it is then signed."""
        if sealed is None:
            return None
        try:
            task = Task.from_json(seals.opened(Sealed.TASK, task_id, sealed))
        except (PeerError, BadTask) as error:
            log.warning("a record was rejected: %s", error, extra={"action": "record_rejected", "task_id": task_id})
            return None
        return task if may_touch(self._me, task) else None

    async def _ask(self, task_ids: Sequence[str]) -> set[str]:
        try:
            refused = await self._requests.ask(Action.WATCH_TASK, map(orjson.dumps, task_ids), LOOK_UP_S)
        except (TaskTimeout, WorldError):
            return set()
        gone = {refusal.task_id for refusal in refused}
        self._endings.confirm(task_id for task_id in task_ids if task_id not in gone)
        return gone
