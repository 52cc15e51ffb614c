"""A transaction under a lease: nothing in it happens unless this process still holds the lease.

This is the optimistic locking of https://redis.io/docs/latest/develop/using-commands/transactions/, with the epoch of
the lease as a fencing token.

    WATCH lease · GET lease                      ← sent with the previous EXEC: the watch is armed ahead of time
    MULTI · SET lease (renewed) · commands · EXEC

Every transaction rewrites the lease. So one SET renews it, carries the count of commits, and spoils the watch of any
other process that believes it holds the lease. A WATCH on the lease alone therefore guards everything that is written
under it: a commit by a successor, the expiry of the lease, and an EXEC of our own that a broken connection delivered
late all abort the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from core.errors import LeaseLost, ServerRefused, StateConflict
from core.langgraph_state import Lease
from core.ports import Command
from core.redis_backend.bounded_reads import lease_read
from core.redis_backend.clock import ServerClock, monotonic_s
from core.redis_backend.grants import granted, held_in
from core.redis_backend.held_lease import HeldLease
from core.redis_backend.keys import AgentKeys
from core.redis_backend.watched_connection import WatchedConnection
from core.server_info import explained

__all__ = ["Transactions"]


class Transactions:
    """The transactions of one lease. The caller holds the connection's lock."""

    def __init__(
        self,
        connection: WatchedConnection,
        lease: HeldLease,
        keys: AgentKeys,
        clock: ServerClock,
        on_written: Callable[[], None],
        telling: str | None = None,
    ) -> None:
        """`on_written` is called when Redis has accepted a write. `telling` is the stream of events: what cannot be
        told there fails no commit."""
        self._connection = connection
        self._lease = lease
        self._keys = keys
        self._clock = clock
        self._on_written = on_written
        self._telling = telling

    async def arm(self) -> bool:
        """Begins to watch the lease. Returns whether this process holds it; False: nobody does. Raises LeaseLost when
        another process holds it, or the stored version is not the known one; TransportDown."""
        # Keys watched since a refused commit may have changed long ago, and would spoil the next transaction.
        version = ("HMGET", self._keys.header, self._keys.version_field, "epoch")
        _, _, stored, header = await self._connection.exchange(("UNWATCH",), *self._watch(), version)
        held = held_in(stored)
        is_ours = self._lease.is_in(held)
        if is_ours:
            self._lease.follow(granted(b"", header, self._clock.now_ms())[0])
        elif (lease := Lease.parse(held)) is not None:
            raise LeaseLost(f"{self._lease.me}: {lease.process} holds the lease now")
        self._connection.armed = is_ours  # not before: who finds another version than its own writes nothing more
        return is_ours

    async def send(self, commands: Sequence[Command] = ()) -> bool:
        """Renews the lease and executes `commands`, all or nothing, and arms the watch for the next transaction.
        Returns False when it was aborted, and nothing was written. Raises ServerRefused: nothing was written either.
        StateConflict: one of `commands` met a key of another type. TransportDown: the outcome is unknown."""
        sent_s, transaction = monotonic_s(), self._transaction(commands)
        return self._outcome(transaction, await self._connection.exchange_watched(*transaction), sent_s)

    async def send_along(self, commands: Sequence[Command], max_bytes: int | None) -> list[Any]:
        """Renews the lease, and returns the replies to `commands` outside of the transaction. A failed renewal stays
        due."""
        sent_s, renewal = monotonic_s(), self._transaction(())
        replies = await self._connection.exchange_watched(*renewal, *commands, max_bytes=max_bytes)
        with suppress(ServerRefused):
            self._outcome(renewal, replies[: len(renewal)], sent_s)
        return replies[len(renewal) :]

    def _transaction(self, commands: Sequence[Command]) -> tuple[Command, ...]:
        return (
            ("MULTI",),
            ("SET", self._keys.lease, self._lease.to_json(self._clock.now_ms()), "PX", self._lease.lease_ms),
            *commands,
            ("EXEC",),
            *self._watch(),
        )

    def _watch(self) -> tuple[Command, Command]:
        return ("WATCH", self._keys.lease), lease_read(self._keys.lease)

    def _outcome(self, transaction: Sequence[Command], replies: Sequence[Any], sent_s: float) -> bool:
        """The outcome of a `_transaction`, from its replies."""
        begun, *queued, executed, _watching, stored = replies
        self._connection.armed = False
        if isinstance(executed, ResponseError):
            causes = [reply for reply in (begun, *queued) if isinstance(reply, ResponseError)]
            raise ServerRefused(f"Redis refused a commit: {causes[0] if causes else executed}")
        if executed is None:
            return False
        for command, reply in zip(transaction[1:], executed, strict=False):
            if isinstance(reply, ResponseError) and command[1] != self._telling:
                raise StateConflict(f"only a part was written: {explained(command, str(reply))}")
        self._lease.renewed(sent_s)
        self._connection.armed = self._lease.is_in(stored)
        self._on_written()
        return True
