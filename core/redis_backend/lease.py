"""How an agent's lease is taken, waited for, taken again and given back. While it is held, commits renew it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from core.errors import LeaseHeld, LeaseLost, ReplyTooLarge, ServerRefused, TransportDown
from core.event_entry import row_of
from core.event_types import EventType
from core.langgraph_state import Lease
from core.machine.process_identity import provably_dead
from core.ports import Command
from core.redis_backend.bounded_reads import HASH_BYTES, lease_read, trimmed_hash
from core.redis_backend.clock import ServerClock, monotonic_s
from core.redis_backend.event_trail import EventTrail
from core.redis_backend.grants import NO_LEASE, fencing, granted, held_in, repairs
from core.redis_backend.held_lease import HeldLease
from core.redis_backend.keys import AgentKeys
from core.redis_backend.transaction import Transactions
from core.redis_backend.watched_connection import WatchedConnection

__all__ = ["Grant", "Leaseholder"]

log = logging.getLogger(__name__)

#: How often a waiting process polls the lease, and how long a standby stays listed after its last poll.
POLL_S, SHOWN_MS = 0.2, 10_000
#: The longest time to wait for a lease to lapse, whatever duration it claims.
MAX_LEASE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Grant:
    """A granted lease: its fence, and the version of the state that it guards (0: none yet)."""

    epoch: int
    version: int


@dataclass(frozen=True, slots=True)
class Observation:
    """The value stored as the lease, as it was first seen. A renewal changes the value, so it is a new observation."""

    text: bytes  #: a lease; NO_LEASE; empty: there is none, as far as is known
    lapses_s: float  #: monotonic; a lease that is not renewed by then is free

    @property
    def lease(self) -> Lease | None:
        return Lease.parse(self.text) if self.text else None

    @property
    def holder(self) -> str:
        """The process that holds it, for people."""
        lease = self.lease
        return f"process {lease.pid} on {lease.host}" if lease else "nobody knows who"

    def is_free(self, now_s: float) -> bool:
        """Whether it may be taken: nobody holds it, or its holder is provably dead or has not renewed it in time."""
        return not self.text or now_s > self.lapses_s or is_dead(self.text)


class Leaseholder:
    """Takes one agent's lease for this process, and gives it back."""

    def __init__(
        self,
        connection: WatchedConnection,
        transactions: Transactions,
        lease: HeldLease,
        keys: AgentKeys,
        clock: ServerClock,
        *,
        by_force: bool,
        trail: EventTrail | None,
    ) -> None:
        self._connection = connection
        self._transactions = transactions
        self._lease = lease
        self._keys = keys
        self._clock = clock
        self._by_force = by_force
        self._trail = trail
        self._shown_ms = 0  # when this process was last listed as a standby
        self.waits = False  #: whether it is a standby that has found another holder

    async def acquire(self, *, standby: bool = False) -> Grant:
        """Takes the lease, waiting until that of a dead holder lapses.

        A live holder shows within a third of the lease time, by a renewal: then this raises LeaseHeld, or as a standby
        waits for as long as that goes on. The lease is taken at once if its holder ran on this machine and is gone, or
        has not renewed it for its whole time. The key may live longer than that: when the server's clock is set back,
        all keys do. Raises TransportDown, ServerRefused; a standby that has found another holder outlasts both.
        """
        found = self._observed(b"")
        while True:
            try:
                if found.is_free(monotonic_s()):
                    text = await self.attempt(found.text)
                    if text is None:
                        self._lease.acquired()
                        self.waits = False
                        return Grant(self._lease.epoch, self._lease.version)
                else:
                    await asyncio.sleep(POLL_S)
                    text = await self._look(standby)
                if text != found.text:
                    found = self._compared(found, self._observed(text), standby)
                self._connection.recovered()
            except (TransportDown, ServerRefused) as error:
                if not self.waits:
                    raise
                await self._connection.outlast(error)

    def _observed(self, text: bytes) -> Observation:
        lease = Lease.parse(text) if text else None
        lease_ms = (lease and lease.lease_ms) or self._lease.lease_ms
        return Observation(text, monotonic_s() + min(MAX_LEASE_S, lease_ms / 1000))

    def _compared(self, before: Observation, now: Observation, standby: bool) -> Observation:
        """`now`, if it may be waited for. Raises LeaseHeld if its holder lives, unless this is a standby."""
        if not standby:
            if before.text and (lease := now.lease) and not lease.takeover:
                raise LeaseHeld(self._lease.me.agent_id, now.holder)
        elif now.text and not self.waits:
            self.waits = True
            log.info("%s waits: %s acts for it now", self._lease.me, now.holder, extra={"action": "standby_waits"})
        return now

    async def _look(self, standby: bool) -> bytes:
        """The stored value, as `held_in` gives it. A standby also keeps itself listed."""
        async with self._connection.lock:
            stored, *_ = await self._connection.exchange(
                lease_read(self._keys.lease), *(self._showing() if standby else ())
            )
        return held_in(stored)

    def _showing(self) -> tuple[Command, ...]:
        """Commands that list this process as a standby; none if it was listed a short time ago."""
        now_ms = self._clock.now_ms()
        if now_ms - self._shown_ms < SHOWN_MS / 5:
            return ()
        self._shown_ms = now_ms
        return (
            ("ZREMRANGEBYSCORE", self._keys.standbys, "-inf", now_ms - SHOWN_MS),
            ("ZADD", self._keys.standbys, now_ms, self._lease.name),
            ("PEXPIRE", self._keys.standbys, SHOWN_MS),
        )

    async def attempt(self, free: bytes = b"") -> bytes | None:
        """Takes the lease if there is none, if its value is still `free`, or if its holder is dead. Returns None if it
        was taken, else the stored value; empty: another process was faster, and the next attempt shows which."""
        async with self._connection.lock:
            asked_s = monotonic_s()
            looks = (*fencing(self._keys), ("TIME",), *(("TYPE", key) for key in self._keys.types))
            try:
                replies = await self._connection.exchange(*looks, max_bytes=HASH_BYTES)
            except ReplyTooLarge:  # only the header can be
                await self._connection.exchange(*trimmed_hash(self._keys.header))
                return b""
            _watching, stored, fence, header, time, *kinds = replies
            self._clock.sync(time, asked_s)
            held = held_in(stored)
            if held not in (b"", free) and not self._by_force and not is_dead(held):
                await self._connection.exchange(("UNWATCH",))
                return held
            return None if await self._take(held, fence, header, repairs(self._keys, kinds)) else b""

    async def _take(self, held: bytes, fence: object, header: object, repairs_first: list[Command]) -> bool:
        now_ms, before = self._clock.now_ms(), self._lease.highest_epoch
        self._lease.version, epoch = granted(fence, header, now_ms)
        # The server's clock in ms also outgrows every fence that was given out before its memory was lost.
        self._lease.reach(max(epoch, self._lease.highest_epoch, now_ms - 1) + 1)
        self._lease.acquired_ms = now_ms
        return await self._transactions.send(
            [*repairs_first, *self._fence(), ("ZREM", self._keys.standbys, self._lease.name), *self._told(held, before)]
        )

    def _told(self, held: bytes, lost_epoch: int) -> list[Command]:
        """The command that tells of the lease that is taken with it: from whom, and of an earlier one that this process
        has lost."""
        lease, process = self._lease, self._lease.name
        former = Lease.parse(held)
        rows = [row_of(EventType.LEASE_LOST, lost_epoch, process)] if lost_epoch else []
        if former or lease.takeover:
            before = f"{former.pid}@{former.host}" if former else None
            rows.append(row_of(EventType.LEASE_TAKEN_OVER, lease.epoch, process, before, lease.takeover or None))
        else:
            rows.append(row_of(EventType.LEASE_ACQUIRED, lease.epoch, process))
        told = self._trail.tells(rows) if self._trail else []
        return [self._trail.entry(told, lease.version, lease.epoch)] if self._trail and told else []

    def _fence(self) -> tuple[Command, Command]:
        return ("SET", self._keys.fence, self._lease.epoch), ("HSET", self._keys.header, "epoch", self._lease.epoch)

    async def regain(self) -> None:
        """Takes the lease again if it lapsed while Redis was away, or was overwritten, and nobody wrote in between. The
        caller holds the connection's lock. Raises LeaseLost if somebody did; TransportDown."""
        before = self._lease.epoch, self._lease.version
        _watching, stored, fence, header = await self._connection.exchange(*fencing(self._keys))
        now_ms = self._clock.now_ms()
        _, epoch = granted(b"", header, now_ms)
        if held_in(stored) not in (b"", NO_LEASE) or epoch not in (self._lease.written_epoch, self._lease.epoch):
            raise LeaseLost(f"{self._lease.me}: somebody else acted, or the server lost its data, while Redis was away")
        version, highest = granted(fence, header, now_ms)
        self._lease.reach(max(highest, self._lease.epoch) + 1)
        self._lease.follow(version)
        if not await self._transactions.send([*self._fence(), *self._told(b"", before[0])]):
            raise LeaseLost(f"{self._lease.me}: another process took the lease while Redis was away")
        log.info(
            "lease taken again", extra={"action": "lease_reacquired", "before": before, "epoch": self._lease.epoch}
        )

    async def release(self) -> None:
        """Gives the lease back, so that a successor need not wait. Raises LeaseLost if another process holds it now;
        TransportDown."""
        async with self._connection.lock:
            if self._lease.epoch and self._connection.connected:
                if self._connection.armed or await self._transactions.arm():
                    await self._connection.exchange_watched(("MULTI",), ("DEL", self._keys.lease), ("EXEC",))
            self._lease.lose()
            self._connection.armed = False


def is_dead(held: bytes) -> bool:
    """Whether the holder of a lease has provably died."""
    lease = Lease.parse(held)
    return lease is not None and provably_dead(lease.process)
