"""An agent's heartbeat: sends signs of life, reads those of its children, and keeps the lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from core.errors import ServerRefused, TransportDown
from core.operations.reader import memory_told
from core.ports import Command
from core.redis_backend.clock import monotonic_s
from core.redis_backend.commit import Committer
from core.redis_backend.keys import AgentKeys
from core.roles import Action, Role
from core.runtime.agent_setup import AgentSetup
from core.runtime.heard_heartbeats import HeardHeartbeats
from core.runtime.outbox import Outbox
from core.runtime.registration import Registration
from core.runtime.revocations import Revocations
from core.runtime.self_report import SelfReport
from core.runtime.watchdog import Watchdog
from core.server_info import Memory
from core.step import Received

__all__ = ["Heartbeat", "extend_key_ttls"]

#: How long the keys of a worker outlive it, and the number of heartbeats after which that is extended.
KEYS_TTL_MS, EXTEND_EVERY = 24 * 3600 * 1000, 60


class Heartbeat:
    """Sends the heartbeats of one agent, and takes those of its children."""

    def __init__(
        self,
        setup: AgentSetup,
        committer: Committer,
        outbox: Outbox,
        revocations: Revocations,
        heard: HeardHeartbeats,
        watchdog: Watchdog,
        report: SelfReport,
        registration: Registration,
        *,
        on_sent: Callable[[], None],
        on_heard: Callable[[Memory | None], None],
    ) -> None:
        """`on_sent` is called after each heartbeat, and `on_heard` after each look at those of the children, since
        there may be some to `take`. It gets how full the server is, if known."""
        self._setup = setup
        self._committer = committer
        self._outbox = outbox
        self._revocations = revocations
        self._heard = heard
        self._watchdog = watchdog
        self._report = report
        self._registration = registration
        self._on_sent = on_sent
        self._on_heard = on_heard
        self._beats: list[Received] = []
        self.number = 0  #: number of the last heartbeat

    async def run(self) -> None:
        """Sends, reads, and renews the lease until it is cancelled. Raises LeaseLost, StateConflict.

        A parent looks once more between two heartbeats, so that it knows of a death one heartbeat after the failure
        timeout.
        """
        loop = asyncio.get_running_loop()
        looks = 1 if self._setup.me.role is Role.WORKER else 2
        due_s = loop.time()
        for number in count(1):
            due_s = max(due_s + self._setup.config.heartbeat_s / looks, loop.time())
            await asyncio.sleep(due_s - loop.time())
            try:
                if number % looks:
                    self._hear(*await self._look())
                else:
                    await self.send()
                if self._committer.lease.renewal_due:  # it could not travel with another command
                    await self._renew()
            except (TransportDown, ServerRefused) as error:
                self._watchdog.note_failure(error)

    async def send(self) -> None:
        """One heartbeat to the parent, and one look at the children's. Raises TransportDown, ServerRefused."""
        self.number += 1
        setup, keys = self._setup, self._setup.keys
        commands: list[Command] = [("TIME",), *self._revocations.look]
        if setup.parent and keys.parent_heartbeats:
            payload = self._report.payload(Action.BEAT, self.number)
            packed = self._outbox.beat(setup.parent, payload, self.number, setup.clock.now_ms())
            commands.append(("HSET", keys.parent_heartbeats, setup.me.agent_id, packed))
        if self.number % EXTEND_EVERY == 1:
            commands += extend_key_ttls(setup.me.role, keys)
        asked_s = monotonic_s()
        beats, time, *replies = await self._look(*commands)
        setup.clock.sync(time, asked_s)
        setup.measures.heartbeats["sent"] += 1
        self._on_sent()
        if self._revocations.look:
            self._revocations.take(replies[0])
        self._hear(beats, None if setup.parent else await memory_told(self._committer))
        await self._registration.refresh(self._report.told)

    async def _renew(self) -> None:
        measures, began_s = self._setup.measures, monotonic_s()
        try:
            await self._committer.renew()
        except BaseException:
            measures.lease_renewal_failures += 1
            raise
        measures.lease_renewal.observe(monotonic_s() - began_s)

    def take(self) -> list[Received]:
        """The heartbeats of children that have come since the last call."""
        beats, self._beats = self._beats, []
        return beats

    async def _look(self, *commands: Command) -> list[Any]:
        """The heartbeats of the children, as in a reply to HGETALL, and the replies to `commands`."""
        if self._setup.me.role is Role.WORKER:  # it has none
            return [[], *await self._committer.run(*commands)]
        return await self._committer.run_reading(self._setup.keys.heartbeats, *commands)

    def _hear(self, beats: Sequence[bytes], memory: Memory | None = None) -> None:
        """Notes the heartbeats of a look."""
        now_ms = max(self._setup.clock.now_ms(), self._committer.lease.incarnation)
        self._beats += self._heard.new(beats, now_ms)
        self._on_heard(memory)


def extend_key_ttls(role: Role, keys: AgentKeys) -> list[Command]:
    """Lets the keys of a worker expire a day after it, since workers come and go under ever new names."""
    behind = (keys.header, keys.fence, keys.seen, keys.inbox) if role is Role.WORKER else ()
    return [("PEXPIRE", key, KEYS_TTL_MS) for key in behind]
