"""A great many workers that can do nothing anybody asks for, and say so all at once."""

from __future__ import annotations

import time

from msgspec import to_builtins

from core.redis_backend.keys import CellKeys
from core.roles import Action, Address, Role
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from core.status_reports import Beat
from tests.redis_server import RedisServer

__all__ = ["Herd"]


class Herd:
    """`size` workers of one distributor, which are nothing but their heartbeats."""

    def __init__(self, size: int, server: RedisServer, coordinator: Address, distributor: Address, secret: str) -> None:
        self.size = size
        self._server = server
        self._chain = (coordinator, distributor)
        self._secret = secret.encode()
        self._beat = 0
        self._outboxes = {name: self._outbox(name) for name in (f"herd-{number}" for number in range(size))}

    def _outbox(self, name: str) -> Outbox:
        chain = (*self._chain, Address(Role.WORKER, name))
        outbox = Outbox(chain, KeyRing.from_secret(self._secret, chain))
        outbox.incarnation = int(time.time() * 1000)
        return outbox

    def beat(self) -> float:
        """All of them, in one write. Returns how long it took the server, seconds."""
        self._beat += 1
        fields = to_builtins(Beat(beat=self._beat, concurrency=1, capabilities=("task:other",)))
        payload = {**fields, "action": Action.BEAT.value}
        now_ms, [_, parent] = int(time.time() * 1000), self._chain
        with self._server.connect() as client, client.pipeline(transaction=False) as pipeline:
            for name, outbox in self._outboxes.items():
                packed = outbox.beat(parent, payload, self._beat, now_ms)
                pipeline.hset(CellKeys(parent.agent_id).heartbeats, name, packed)
            began_s = time.monotonic()
            pipeline.execute()
        return time.monotonic() - began_s
