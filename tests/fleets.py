"""Agents by the thousand that are nothing but what they have written: a lease, a heartbeat, a registration.

They have workers of a type of task of their own, and no room. Who reads them finds them as it would find others; nobody
runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import to_builtins

from core.langgraph_state import Lease
from core.ports import Command
from core.redis_backend.keys import ACTIVE, CellKeys, CoordinatorKeys, RegistryKeys, keys_of
from core.redis_backend.registry_scripts import SCRIPTS
from core.registry.agent_info import Declared, Load, Vital
from core.registry.agent_registry import register_command
from core.roles import Action, Address, Role
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from core.status_reports import Beat, Kind
from tests.redis_server import RedisServer

__all__ = ["BUSY_TYPE", "HUNDRED", "LIFE_S", "RARE", "StoredFleet"]

#: What all of them could run, if they had room; what one of a hundred workers can do besides.
BUSY_TYPE, RARE = "busy", "rare"
LIFE_S = 3600
#: A distributor and its workers.
HUNDRED = 100
WORKERS = HUNDRED - 1

Chain = tuple[Address, ...]


class StoredFleet:
    """Distributors with 99 workers each below one coordinator. Whoever judges them by their silence, or takes tasks
    from them, needs a failure timeout of LIFE_S."""

    def __init__(self, server: RedisServer, coordinator_id: str, secret: str) -> None:
        self._server = server
        self._top = Address(Role.COORDINATOR, coordinator_id)
        self._secret = secret.encode()
        self.size = 0

    def grow(self, size: int) -> None:
        """Until there are so many agents, in hundreds."""
        numbers = range(self.size // HUNDRED, size // HUNDRED)
        with self._server.connect() as client:
            for script in SCRIPTS:
                client.script_load(script)
            for number in numbers:
                pipeline = client.pipeline(transaction=False)
                for command in self._distributor(number):
                    pipeline.execute_command(*command)
                pipeline.execute()
        self.size = size

    def add(self, worker: Chain, beat: Beat) -> None:
        """One worker more, which says this of itself."""
        with self._server.connect() as client:
            for script in SCRIPTS:
                client.script_load(script)
            for command in self._agent(worker, beat, CellKeys(worker[1].agent_id).heartbeats, ()):
                client.execute_command(*command)

    def _distributor(self, number: int) -> Iterator[Command]:
        chain = (self._top, Address(Role.DISTRIBUTOR, f"stored-{number:03}"))
        workers = [(*chain, Address(Role.WORKER, f"stored-{number:03}-{each:02}")) for each in range(WORKERS)]
        facts: dict[str, int | str | None] = {
            "health": "active", "in_flight": 1, "done": 0, "failed": 0, "concurrency": 1, "pid": 1, "running": 1,
            "incarnation": 1,
        }  # fmt: skip
        kind = Kind(skills=(f"task:{BUSY_TYPE}",), concurrency=WORKERS)
        told = Beat(
            beat=1, capabilities=kind.skills, kinds=(kind,), running=WORKERS,
            children={worker[-1].agent_id: facts for worker in workers},
        )  # fmt: skip
        yield from self._agent(chain, told, CoordinatorKeys(self._top.agent_id).heartbeats, ())
        beat = Beat(beat=1, capabilities=kind.skills, concurrency=1, running=1)
        for each, worker in enumerate(workers):
            yield from self._agent(worker, beat, CellKeys(chain[1].agent_id).heartbeats, (RARE,) if not each else ())

    def _agent(self, chain: Chain, beat: Beat, heartbeats: str, can: Sequence[str]) -> Iterator[Command]:
        me, now, place = chain[-1], datetime.now(UTC), "/".join(map(str, chain))
        lease = Lease(
            owner=str(me), process=f"{me}/1/1", incarnation=1, epoch=1, acquired_at=now,
            expires_at=now + timedelta(seconds=LIFE_S), lease_ms=LIFE_S * 1000,
        )  # fmt: skip
        yield ("SET", keys_of(chain).lease, lease.model_dump_json(), "PX", LIFE_S * 1000)
        yield ("HSET", keys_of(chain).header, "epoch", 1)
        yield ("SADD", ACTIVE, place)
        outbox = Outbox(chain, KeyRing.from_secret(self._secret, chain))
        outbox.incarnation = 1
        payload = {**to_builtins(beat), "action": Action.BEAT.value}
        yield ("HSET", heartbeats, me.agent_id, outbox.beat(chain[-2], payload, 1, int(time.time() * 1000)))
        services = tuple(skill.removeprefix("task:") for skill in beat.capabilities)
        declared = Declared(agent_id=me.agent_id, agent_type=me.role, services=services, capabilities=tuple(can))
        vital = Vital(load=Load(in_flight=1, capacity=1))
        yield register_command(RegistryKeys(self._top.agent_id), declared, vital, place, 1, LIFE_S * 1000)
