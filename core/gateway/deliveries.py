"""The webhooks that are still to be called, as the gateways of one coordinator remember them together.

A delivery is recorded before its task is submitted, so that none is lost, and claimed by one gateway at a time. Whoever
dies with a claim has it for CLAIM_MS; then another gateway goes on. Those of tasks that schedules open are recorded by
the coordinator, together with the task, and taken on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from core.checkpoints.connection import GroupedConnection
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.delivery_scripts import CLAIM_DUE, PUT_OFF
from core.redis_backend.gateway_keys import GatewayKeys
from core.redis_backend.keys import CoordinatorKeys
from core.stored import pairs

__all__ = ["Deliveries", "Delivery"]

#: How long a claim lasts, longer than one try takes.
CLAIM_MS = 30_000
#: Number of failed deliveries that are kept, the newest.
FAILED_KEPT = 1_000


class Delivery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That somebody wants to be told of the end of a task or a run."""

    delivery_id: str  #: the id of the run, or else of the task: the receiver can tell by it what it knows already
    url: str
    thread_id: str | None = None  #: of a run; None: it is a task
    tenant: str | None = None  #: of the task
    created_at: datetime
    tries: int = 0
    problem: str = ""  #: what the last try has met


class Deliveries:
    """Reads and writes them. Raises TransportDown and ServerRefused."""

    def __init__(self, connection: GroupedConnection, keys: GatewayKeys) -> None:
        self._run = connection.run
        self._keys = keys
        self._of_schedules = CoordinatorKeys(keys.coordinator_id).webhooks

    async def note(self, *deliveries: Delivery) -> None:
        """Records deliveries before their tasks are submitted. One that is there already stays as it is."""
        for delivery in deliveries:
            await self._run(
                ("HSETNX", self._keys.webhooks, delivery.delivery_id, msgspec.json.encode(delivery)),
                ("ZADD", self._keys.webhooks_due, "NX", 0, delivery.delivery_id),
            )

    async def take_on(self, *deliveries: Delivery) -> None:
        """Records deliveries of tasks that schedules have opened. Two gateways may do so at once."""
        await self.note(*deliveries)
        await self._run(("HDEL", self._of_schedules, *(delivery.delivery_id for delivery in deliveries)))

    async def forget(self, *delivery_ids: str) -> None:
        """Removes deliveries: they were made, or their tasks were refused."""
        if delivery_ids:
            await self._run(
                ("HDEL", self._keys.webhooks, *delivery_ids), ("ZREM", self._keys.webhooks_due, *delivery_ids)
            )

    async def claim(self, limit: int) -> tuple[list[Delivery], dict[str, str]]:
        """Those whose moment has come, at most so many. They are this gateway's for CLAIM_MS. Beside them, tasks that
        schedules have opened, at most so many, and the URL that is to be called for each."""
        keys = 3, self._keys.webhooks_due, self._keys.webhooks, self._of_schedules
        [(records, flat)] = await self._run(("EVALSHA", name_of(CLAIM_DUE), *keys, limit, CLAIM_MS))
        opened = {}
        for task_id, url in pairs(flat).items():
            try:
                opened[task_id.decode()] = url.decode()
            except UnicodeDecodeError:  # no coordinator has written it
                await self._run(("HDEL", self._of_schedules, task_id))
        return [delivery for record in records if (delivery := _read(record)) is not None], opened

    async def put_off(self, delivery: Delivery, delay_s: float) -> None:
        """Gives a delivery back until later."""
        keys = 2, self._keys.webhooks_due, self._keys.webhooks
        record = msgspec.json.encode(delivery)
        await self._run(("EVALSHA", name_of(PUT_OFF), *keys, delivery.delivery_id, round(delay_s * 1000), record))

    async def give_up(self, delivery: Delivery) -> None:
        """Moves a delivery to the failed ones."""
        failed = ("XADD", self._keys.webhooks_failed, "MAXLEN", "~", FAILED_KEPT, "*", "delivery")
        await self._run((*failed, msgspec.json.encode(delivery)))
        await self.forget(delivery.delivery_id)

    async def failed(self, limit: int) -> Sequence[tuple[str, Delivery]]:
        """Those that were given up, the newest first, each after the id of its entry, which begins with the time."""
        [entries] = await self._run(("XREVRANGE", self._keys.webhooks_failed, "+", "-", "COUNT", limit))
        return [
            (entry_id.decode(), delivery) for entry_id, fields in entries if (delivery := _read(fields[1])) is not None
        ]


def _read(record: bytes) -> Delivery | None:
    """The delivery; None: this is none, so somebody else has written it."""
    try:
        return msgspec.json.decode(record, type=Delivery)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
