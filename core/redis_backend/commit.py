"""Commits under the lease. Everything that an agent writes goes through here.

A commit is one transaction (see `transaction`): the new version of the state, the writes, the messages, and the
acknowledgements of what was read. When the connection breaks, the outcome of an EXEC is unknown. The version in the
header tells it: if it is still the old one, the same commands are sent again; if it is the new one, they were executed.
So a commit is executed exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import filterfalse
from typing import Any

from redis.exceptions import ResponseError

from core import failpoints
from core.backoff import Backoff
from core.errors import LeaseLost, ReplyTooLarge, ServerRefused, StateConflict, TransportDown
from core.event_entry import EventRow
from core.ports import Command, Connection
from core.redis_backend.audit_trail import Changes, audit_entry
from core.redis_backend.bounded_reads import HASH_BYTES, trimmed_hash
from core.redis_backend.clock import ServerClock
from core.redis_backend.event_trail import EventTrail
from core.redis_backend.held_lease import RENEWED_ALONG_SHARE, HeldLease
from core.redis_backend.keys import AgentKeys
from core.redis_backend.lease import Leaseholder
from core.redis_backend.transaction import Transactions
from core.redis_backend.watched_connection import WatchedConnection
from core.roles import Address
from core.server_info import explained, is_other_type, why_refused

__all__ = ["Committer", "DeferredCommand"]

log = logging.getLogger(__name__)

#: How many times an aborted commit is attempted, and the first pause between two attempts, in seconds.
TRIES, CONFLICT_PAUSE_S = 8, 0.004
#: Makes a command that contains the fence, which is its argument. It is called for each attempt, since the lease may
#: have been taken again in between.
DeferredCommand = Callable[[int], Command]


class Committer:
    """Commits under one agent's `lease`, over a `connection` of its own. Its `leaseholder` takes the lease first.

    Concurrent callers are served one after the other.
    """

    def __init__(
        self,
        wire: Connection,
        me: Address,
        keys: AgentKeys,
        clock: ServerClock,
        *,
        lease_ms: int,
        after_epoch: int = 0,
        takeover: bool = False,
        by_force: bool = False,
        trail: EventTrail | None = None,
        on_transport: Callable[[bool, str], None] = lambda up, why: None,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """`lease_ms`: how long the lease lasts without renewal.
        `after_epoch`: an epoch that this process held before; a new one is higher, whatever the server remembers.
        `takeover`: the agent's parent takes the lease for a moment, to act in its place; the agent waits for the end.
        `by_force`: it takes the lease from its holder, even from a live one.
        `trail`: where it tells observers of the lease that it takes, and of the events of a commit.
        `on_transport` is told whether Redis could be reached, and why not; `on_written` is called after each write."""
        self._me = me
        self._keys = keys
        self.connection = WatchedConnection(wire, me, Backoff.under_lease(lease_ms / 1000), on_transport)
        self.lease = HeldLease(me, lease_ms, after_epoch=after_epoch, takeover=takeover)
        self._trail = trail
        telling = trail.key if trail else None
        self._transactions = Transactions(self.connection, self.lease, keys, clock, on_written, telling)
        self.leaseholder = Leaseholder(
            self.connection, self._transactions, self.lease, keys, clock, by_force=by_force, trail=trail
        )
        self._contention = Backoff(CONFLICT_PAUSE_S)
        self.conflicts = 0  #: transactions that had to be sent again
        self.fenced = 0  #: commits refused because the lease was lost

    # ---- under the lease ----

    def telling(self, rows: Sequence[EventRow]) -> list[DeferredCommand]:
        """The command that tells observers of these events, for the next `commit`; none if there are none."""
        trail = self._trail
        if not (trail and rows):
            return []
        return [lambda epoch: trail.entry(rows, self.lease.version + 1, epoch)]

    async def renew(self) -> None:
        """Renews the lease. It waits for Redis, and raises, as `commit` does."""
        failpoints.hit("renew")
        await self._until_done(self._transactions.send)

    async def commit(self, commands: Sequence[Command | DeferredCommand], changes: Changes) -> int:
        """Executes all of `commands`, or none of them if another process holds the lease. Returns the new version, from
        1 on. `changes` go into the audit trail.

        While Redis is away, a commit waits. When the connection is back, it finds out whether the commands were
        executed before they are sent again, so they are never executed twice. Raises LeaseLost: nothing was written,
        and this process may no longer act; StateConflict: too many transactions were aborted, and nothing was written,
        or a key was of another type, and only a part was; ServerRefused: nothing was written, since Redis is out of
        memory, read-only or cannot persist; TransportDown, after `stop_waiting`: the outcome is unknown.
        """
        version: int | None = None  # None until something is sent; a caller that was cancelled may have written another

        async def attempt() -> bool:
            nonlocal version
            if self.lease.version == version:
                return True  # the commands were executed before the connection broke
            version = self.lease.version + 1
            if await self._write(version, commands, changes):
                self.lease.version = version
                return True
            return False

        await self._until_done(attempt)
        assert version is not None
        return version

    async def _until_done(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Calls `attempt`, with the lease watched, until it returns True, which means that its transaction was not
        aborted."""
        conflicts = 0
        async with self.connection.lock:
            while True:
                try:
                    if not (self.connection.armed or await self._transactions.arm()):
                        await self.leaseholder.regain()
                    if await attempt():
                        self.connection.recovered()
                        self._contention.reset()
                        return
                    conflicts += 1
                    self.conflicts += 1
                    if conflicts == TRIES:
                        raise StateConflict(f"{self._me}: {TRIES} transactions in a row were aborted")
                    await asyncio.sleep(self._contention.next(random.random()))
                except TransportDown as error:
                    self.connection.armed = False
                    await self.connection.outlast(error)
                except LeaseLost:
                    self.fenced += 1
                    self.lease.lose()
                    self.connection.armed = False
                    raise

    async def _write(self, version: int, commands: Sequence[Command | DeferredCommand], changes: Changes) -> bool:
        """Attempts a commit once. Returns whether it was executed; False: the transaction was aborted."""
        failpoints.hit("watch")
        epoch = self.lease.epoch
        made = [command(epoch) if callable(command) else command for command in commands]
        sent = [*self._head(version, changes, made), *filterfalse(self._is_put_into_header, made)]
        failpoints.hit("before-exec")
        failpoints.hit_soon("exec-sent")
        done = await self._transactions.send(sent)
        failpoints.hit("exec")
        return done

    def _head(self, version: int, changes: Changes, commands: Sequence[Command]) -> list[Command]:
        """The commands that every commit adds: version, audit entry, and a hint to subscribers. What `commands` put
        into the header goes there along with the version."""
        keys, epoch = self._keys, self.lease.epoch
        more = [part for command in filter(self._is_put_into_header, commands) for part in command[2:]]
        head: list[Command] = [("HSET", keys.header, keys.version_field, version, "epoch", epoch, *more)]
        if keys.history and changes:
            side, by = self._me.role.value, self._me.agent_id
            head.append(audit_entry(keys.history, side=side, by=by, version=version, epoch=epoch, changes=changes))
        if keys.changes:
            head.append(("PUBLISH", keys.changes, f"{self._me.role} {version}"))
        return head

    def _is_put_into_header(self, command: Command) -> bool:
        return command[0] == "HSET" and command[1] == self._keys.header

    async def close(self) -> None:
        """Closes the connection. The lease, if it is held, lapses by itself."""
        await self.connection.close()

    # ---- plain commands ----

    async def run(self, *commands: Command, max_bytes: int | None = None) -> list[Any]:
        """Executes plain commands, such as heartbeats and look-ups, outside a transaction. Returns their replies.

        A renewal of the lease travels with them if it is nearly due, since over a slow link it would come too late if
        it waited for a reply of its own. If that fails, it stays due. Raises TransportDown; ReplyTooLarge, a kind of
        TransportDown, when more than `max_bytes` came in reply; ServerRefused when a command was refused; StateConflict
        when a key is of another type: whoever takes the lease next repairs the keys of its agent.
        """
        replies = await self.look(*commands, max_bytes=max_bytes)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ResponseError) and command[0] != "GETRANGE":  # it reads what others may write
                if is_other_type(str(reply)):
                    raise StateConflict(explained(command, str(reply)))
                raise ServerRefused(f"Redis refused {command[0]!r}: {why_refused(str(reply))}")
        return replies

    async def look(self, *commands: Command, max_bytes: int | None = None) -> list[Any]:
        """Does as `run`, but returns a refusal as an error in the place of its reply."""
        async with self.connection.lock:
            if not self.connection.armed or self.lease.unrenewed_share <= RENEWED_ALONG_SHARE:
                return await self.connection.exchange(*commands, max_bytes=max_bytes)
            failpoints.hit("renew")
            return await self._transactions.send_along(commands, max_bytes)

    async def run_reading(self, key: str, *commands: Command) -> list[Any]:
        """Reads all of the hash at `key`, and executes `commands` as `run` does. Returns the reply to HGETALL first,
        and then theirs.

        A hash that is larger than any of ours is trimmed first, so that nobody who can write there exhausts this
        process's memory. In that case `commands` are executed twice."""
        try:
            return await self.run(("HGETALL", key), *commands, max_bytes=HASH_BYTES)
        except ReplyTooLarge:
            log.warning("%s is too large: its largest fields are deleted", key, extra={"action": "hash_trimmed"})
        return (await self.run(*trimmed_hash(key), *commands))[1:]

    async def look_up(self, *commands: Command) -> list[Any]:
        """The replies to commands that only read. While Redis is away it waits, as `commit` does.

        Raises ServerRefused, StateConflict; TransportDown only after `stop_waiting`."""
        return await self._outlasting(lambda: self.run(*commands))

    async def look_up_hash(self, key: str) -> list[bytes]:
        """The names and values of a hash, alternately, as HGETALL returns them. It waits as `look_up` does, and trims
        the hash as `run_reading` does."""
        [fields] = await self._outlasting(lambda: self.run_reading(key))
        return list(fields)

    async def _outlasting(self, look: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        while True:
            try:
                replies = await look()
            except TransportDown as error:
                await self.connection.outlast(error)
            else:
                self.connection.recovered()
                return replies
