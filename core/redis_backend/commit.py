"""The one transaction: everything an agent writes goes through here, under its lease.

    WATCH lease · GET lease · HMGET header       ← sent with the previous EXEC: the watch is armed ahead of time
    MULTI · SET lease (renewed) · HSET header version+1 · writes · messages · XDEL what was read · EXEC

Every commit writes the lease anew, so one SET renews it, carries the count of commits, and spoils the watch of whoever
else believes to hold it. A WATCH on the lease alone therefore guards all that is written under it: a commit by a
successor, the lease's expiry, and an EXEC of our own that a cut connection delivered late all abort the transaction.

After a lost connection the outcome of an EXEC is unknown. The version in the header tells: it is either the one
before, and the same commands are sent again, or the one after, and they have happened. So a commit happens once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import orjson
from redis.exceptions import ResponseError

from core import failpoints
from core.backoff import Backoff
from core.errors import LeaseHeld, LeaseLost, ReplyTooLarge, ServerRefused, StateConflict, TransportDown
from core.langgraph_state import Lease
from core.machine.process_identity import this_process
from core.ports import Command, Connection
from core.redis_backend.bounded_reads import HASH_BYTES, lease_read, trimmed_hash
from core.redis_backend.clock import ServerClock, monotonic_s
from core.redis_backend.grants import NO_LEASE, Grant, fencing, granted, held_in, is_dead, mended, silence_s, waiting
from core.redis_backend.keys import AgentKeys
from core.roles import Address
from core.server_info import explained, is_elsewhere, is_other_type, passes_soon, why_refused

__all__ = ["Committer", "Grant", "Late"]

log = logging.getLogger(__name__)

#: How often a commit is tried again when something changed under it, and the first pause before that.
TRIES, CONFLICT_PAUSE_S = 8, 0.004
#: A holder stops acting this long before its lease can end.
MARGIN_SHARE = 0.1
#: A renewal is sent by itself after so much of the lease time, and along with other commands after so much: whatever it
#: does not go along with, it may have to wait for, and on a link that becomes slow that alone may take half a lease.
RENEWED_SHARE, RENEWED_ALONG_SHARE = 1 / 3, 0.1
#: Who waits for a lease looks at it so often, and is shown for so long after it has stopped.
LOOK_AGAIN_S, SHOWN_MS = 0.2, 10_000
#: How many of a commit's changes its entry in the audit trail lists, and how many entries are kept.
CHANGES_SHOWN, HISTORY_KEPT = 64, 1000
#: Instead of the holder's lease: somebody was faster, and the next look shows who.
CONTENDED = b""
#: A command that is made anew for each try of its commit, since it tells the fence.
Late = Callable[[], Command]
Changes = Mapping[str, tuple[str, ...]]  #: what became of tasks, by their ids


class Committer:
    """Holds one agent's lease and commits under it, over a connection of its own.

    Not for several tasks at once: callers are served one after the other.
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
        in_passing: bool = False,
        by_force: bool = False,
        on_transport: Callable[[bool, str], None] = lambda up, why: None,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """`after_epoch`: an epoch that this process held before; a new one is higher whatever the server remembers.
        `in_passing`: it takes the lease for a moment, to act in the agent's place; the agent itself waits for that.
        `by_force`: it takes the lease from whoever holds it, also one that lives.
        `on_transport` is told whether Redis could be reached and why not, `on_written` that it has taken a write."""
        self._wire = wire
        self._me = me
        self._keys = keys
        self._clock = clock
        self._lease_ms = lease_ms
        self._in_passing = in_passing
        self._by_force = by_force
        self._on_transport = on_transport
        self._on_written = on_written
        self._lock = asyncio.Lock()
        self._process = this_process()
        self._host = socket.gethostname()
        self._name = f"{os.getpid()}@{self._host}"
        self._armed = False  # whether the lease is being watched, and was ours when the watch began
        self._renewed_s = 0.0  # monotonic, from before the last renewal was sent
        self._acquired_ms = self._seen_waiting_ms = 0
        self._written_epoch = 0  # the epoch that the header is known to carry
        self._commits = 0
        self._closing = False
        self.waits = False  #: whether it has found another process acting, and waits for its turn
        self._asked_s: float | None = None  # monotonic, since when an answer is waited for
        self._waited_s = 0.0
        self.incarnation = 0
        self.epoch = 0
        self.highest_epoch = after_epoch  #: of those that this process has held
        self.version = 0
        self.conflicts = 0  #: transactions that had to be sent again
        self.fenced = 0  #: commits refused because the lease was lost

    # ---- the lease ----

    @property
    def may_act(self) -> bool:
        """Whether the lease certainly still holds, by this process's own monotonic clock."""
        held_s = self._lease_ms / 1000 * (1 - MARGIN_SHARE)
        return self.epoch > 0 and monotonic_s() < self._renewed_s + held_s

    @property
    def waited_s(self) -> float:
        """For how long, all together, it has waited for Redis to answer."""
        return self._waited_s + (0.0 if self._asked_s is None else monotonic_s() - self._asked_s)

    @property
    def renewal_due(self) -> bool:
        """Whether a third of the lease time has passed since it was renewed, by a commit or otherwise."""
        return self._unrenewed_share > RENEWED_SHARE

    @property
    def _unrenewed_share(self) -> float:
        return (monotonic_s() - self._renewed_s) * 1000 / self._lease_ms

    async def acquire(self, *, standby: bool = False) -> Grant:
        """Takes the lease, waiting for a dead holder's to run out.

        When another live process renews it, which shows within a third of the lease time, raises LeaseHeld, or as a
        standby waits for as long as that goes on. It is taken over at once from a process of this machine that exists
        no more, and from whoever has not renewed it for its whole time, though it may have longer to live: a server's
        clock that is set back prolongs every key's life. Raises TransportDown.
        """
        seen, ends_s, backoff = None, 0.0, self._backoff()
        while True:
            try:
                held = await self._try_acquire(seen if monotonic_s() > ends_s else None)
                if held is None:
                    # Not by an attempt that failed: others may have had the lease since, with higher numbers.
                    self.incarnation, self.waits = self.epoch, False
                    return Grant(self.epoch, self.version)
                while held and not (held == seen and monotonic_s() > ends_s) and not is_dead(held):
                    if held != seen:
                        lease = Lease.parse(held)
                        who = f"process {lease.pid} on {lease.host}" if lease else "nobody knows who"
                        if seen is not None and not standby and lease and not lease.in_passing:
                            raise LeaseHeld(self._me.agent_id, who)
                        if standby and not self.waits:
                            log.info("%s waits: %s acts for it now", self._me, who, extra={"action": "standby_waits"})
                        seen, self.waits = held, standby
                        ends_s = monotonic_s() + silence_s(lease, self._lease_ms)
                    await asyncio.sleep(LOOK_AGAIN_S)
                    look = (lease_read(self._keys.lease), *(self._waiting() if standby else ()))
                    async with self._lock:
                        held = held_in((await self._exchange(*look))[0])
                backoff.reset()
            except (TransportDown, ServerRefused) as error:
                if not standby or seen is None:
                    raise
                await self._outlast(error, backoff)

    def _waiting(self) -> tuple[Command, ...]:
        """Now and then: makes it seen that this process waits, for as long as it does."""
        now_ms = self._clock.now_ms()
        if now_ms - self._seen_waiting_ms < SHOWN_MS / 5:
            return ()
        self._seen_waiting_ms = now_ms
        return waiting(self._keys, self._name, now_ms, SHOWN_MS)

    async def _try_acquire(self, lapsed: bytes | None) -> bytes | None:
        """One attempt. None: the lease is ours; else what another holder's says, or CONTENDED. `lapsed` is nobody's."""
        async with self._lock:
            asked_s = monotonic_s()
            try:
                looks = (*fencing(self._keys), ("TIME",), *(("TYPE", key) for key in self._keys.types))
                replies = await self._exchange(*looks, most_bytes=HASH_BYTES)
            except ReplyTooLarge:  # only the header can be
                await self._exchange(*trimmed_hash(self._keys.header))
                return CONTENDED
            self._clock.sync(replies[4], asked_s)
            held, fence, header = held_in(replies[1]), replies[2], replies[3]
            if held is not None and held != lapsed and not self._by_force and not is_dead(held):
                await self._exchange(("UNWATCH",))
                return held
            self.version, epoch = granted(fence, header, self._clock.now_ms())
            # The server's clock in ms also outgrows every fence that was given out before its memory was lost.
            self.epoch = self.highest_epoch = max(epoch, self.highest_epoch, self._clock.now_ms() - 1) + 1
            self._acquired_ms = self._clock.now_ms()
            done = await self._send(
                [
                    *mended(self._keys, replies[5:]),
                    ("SET", self._keys.fence, self.epoch),
                    ("HSET", self._keys.header, "epoch", self.epoch),
                    ("ZREM", self._keys.standbys, self._name),
                ]
            )
            return None if done else CONTENDED

    async def renew(self) -> None:
        """Renews the lease. Raises LeaseLost, TransportDown."""
        failpoints.hit("renew")
        await self._transact((), None)

    async def release(self) -> None:
        """Gives the lease back, so that a successor need not wait. What was committed stays."""
        async with self._lock:
            self._closing = True
            if self.epoch and self._wire.connected:
                if self._armed or await self._arm():
                    await self._exchange_watched(("MULTI",), ("DEL", self._keys.lease), ("EXEC",))
            self.epoch, self._armed = 0, False

    async def close(self) -> None:
        await self._wire.close()

    def stop_waiting(self) -> None:
        """Lets a commit that waits for Redis to come back give up with TransportDown."""
        self._closing = True

    # ---- commits ----

    async def commit(self, commands: Sequence[Command | Late], changes: Changes) -> int:
        """Executes `commands` if the lease is still ours, all or nothing. Returns the new version, from 1 on.

        `changes` go into the audit trail. While Redis is away it waits and goes on by itself; what was sent before the
        connection broke is looked up first and never done twice. Raises LeaseLost: nothing was written and this process
        may no longer act; StateConflict: nothing was written; ServerRefused: Redis is out of memory, read-only or
        cannot persist, nothing was written.
        """
        return await self._transact(commands, changes)

    def _head(self, version: int, changes: Changes) -> list[Command]:
        """What a commit writes beside its commands. Made anew for each try: the version is that of this moment, and
        the lease may have been taken again, with a higher fence, since the last one."""
        head: list[Command] = [("HSET", self._keys.header, self._keys.version_field, version, "epoch", self.epoch)]
        if self._keys.history and changes:
            head.append(self.history_entry(self._keys.history, self._me.role.value, version, changes))
        if self._keys.changes:
            head.append(("PUBLISH", self._keys.changes, f"{self._me.role} {version}"))
        return head

    def history_entry(self, key: str, side: str, version: int, changes: Changes) -> Command:
        """An entry of the audit trail: who wrote which version under which fence, and the first tasks it changed."""
        shown = dict(islice(changes.items(), CHANGES_SHOWN))
        return (
            "XADD", key, "MAXLEN", "~", HISTORY_KEPT, "*",
            "side", side, "by", self._me.agent_id, "version", version, "epoch", self.epoch,
            "changed", len(changes), "changes", orjson.dumps(shown),
        )  # fmt: skip

    async def run(self, *commands: Command, most_bytes: int | None = None) -> list[Any]:
        """Plain commands outside a transaction (heartbeats, look-ups), on the same connection.

        A renewal goes along: waiting for a reply of its own, it would come too late over a slow link. One that fails
        is due as before. Raises TransportDown; ReplyTooLarge, which is one, when more than `most_bytes` came in reply;
        ServerRefused when one of the commands was refused; StateConflict when its key is of another type: who takes the
        lease anew mends what is its own.
        """
        replies = await self.look(*commands, most_bytes=most_bytes)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ResponseError) and command[0] != "GETRANGE":  # which looks at what others may write
                if is_other_type(str(reply)):
                    raise StateConflict(explained(command, str(reply)))
                raise ServerRefused(f"Redis refused {command[0]!r}: {why_refused(str(reply))}")
        return replies

    async def look(self, *commands: Command, most_bytes: int | None = None) -> list[Any]:
        """`run`, where a refusal stands as an error in the place of its reply."""
        async with self._lock:
            if not (self._armed and self._wire.connected and self._unrenewed_share > RENEWED_ALONG_SHARE):
                replies = await self._exchange(*commands, most_bytes=most_bytes)
            else:
                failpoints.hit("renew")
                sent_s, renewal = monotonic_s(), self._transaction(())
                replies = await self._exchange_watched(*renewal, *commands, most_bytes=most_bytes)
                with suppress(ServerRefused):
                    self._outcome(renewal, replies[: len(renewal)], sent_s)
                del replies[: len(renewal)]
        return replies

    async def run_reading(self, key: str, *commands: Command) -> list[Any]:
        """`run` of a look at all of the hash at `key`, whose reply is as HGETALL's, and of `commands`.

        Where that is larger than any of ours it is first made smaller, so that nobody who can write there fills this
        process's memory; `commands` are carried out twice then."""
        try:
            return await self.run(("HGETALL", key), *commands, most_bytes=HASH_BYTES)
        except ReplyTooLarge:
            log.warning("%s is too large: its largest fields are deleted", key, extra={"action": "hash_trimmed"})
        return (await self.run(*trimmed_hash(key), *commands))[1:]

    async def look_up(self, *commands: Command) -> list[Any]:
        """The replies to commands that only read. While Redis is away it waits and goes on by itself, as a commit.

        Raises TransportDown only when it is to wait no longer; ServerRefused."""
        return await self._outlasting(lambda: self.run(*commands))

    async def look_up_hash(self, key: str) -> list[bytes]:
        """All of a hash, as HGETALL gives it; otherwise as `look_up` and `run_reading`."""
        [fields] = await self._outlasting(lambda: self.run_reading(key))
        return list(fields)

    async def _outlasting(self, look: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        backoff = self._backoff()
        while True:
            try:
                return await look()
            except TransportDown as error:
                await self._outlast(error, backoff)

    def _backoff(self) -> Backoff:
        return Backoff.under_lease(self._lease_ms / 1000)

    async def _outlast(self, error: TransportDown | ServerRefused, backoff: Backoff) -> None:
        """Waits a while after the connection broke, or a write was refused. Raises `error` instead when it is to wait
        no longer."""
        if self._closing:
            raise error
        if isinstance(error, TransportDown):
            self._on_transport(False, str(error))
        await asyncio.sleep(backoff.next(random.random()))

    async def _transact(self, commands: Sequence[Command | Late], changes: Changes | None) -> int:
        """Executes `commands` as the next version, or with no `changes` as none, and returns the version by then."""
        async with self._lock:
            target: int | None = None  # until something was sent: what a cancelled caller has sent is not ours
            backoff, contention, conflicts = self._backoff(), Backoff(CONFLICT_PAUSE_S), 0
            while True:
                try:
                    if not (self._armed and self._wire.connected):
                        if not await self._arm():
                            await self._reacquire()
                        if changes is not None and self.version == target:
                            return target  # it had happened before the connection broke
                    target = self.version + (changes is not None)
                    if await (self._send(()) if changes is None else self._write(target, commands, changes)):
                        self.version = target
                        return target
                    conflicts += 1
                    self.conflicts += 1
                    if conflicts == TRIES:
                        raise StateConflict(f"{self._me}: {TRIES} transactions in a row were aborted")
                    await asyncio.sleep(contention.next(random.random()))
                except TransportDown as error:
                    self._armed = False
                    await self._outlast(error, backoff)
                except LeaseLost:
                    self.fenced += 1
                    self.epoch, self._armed = 0, False
                    raise

    async def _write(self, version: int, commands: Sequence[Command | Late], changes: Changes) -> bool:
        """`_send` of a commit."""
        failpoints.hit("watch")
        made = (command() if callable(command) else command for command in commands)
        sent = [*self._head(version, changes), *made]
        failpoints.hit("before-exec")
        failpoints.hit_soon("exec-sent")
        done = await self._send(sent)
        failpoints.hit("exec")
        return done

    async def _send(self, commands: Sequence[Command]) -> bool:
        """MULTI..EXEC, and the watch for the next one in the same write. False: aborted, and nothing was written."""
        sent_s, transaction = monotonic_s(), self._transaction(commands)
        return self._outcome(transaction, await self._exchange_watched(*transaction), sent_s)

    def _transaction(self, commands: Sequence[Command]) -> tuple[Command, ...]:
        return (
            ("MULTI",),
            ("SET", self._keys.lease, self._lease_value(), "PX", self._lease_ms),
            *commands,
            ("EXEC",),
            *self._watching(),
        )

    def _outcome(self, transaction: Sequence[Command], replies: Sequence[Any], sent_s: float) -> bool:
        """What became of a `_transaction`, by its replies. False: aborted. Raises ServerRefused, StateConflict."""
        outcome = replies[-4]
        self._armed = False
        if isinstance(outcome, ResponseError):
            causes = [reply for reply in replies[:-4] if isinstance(reply, ResponseError)]
            raise ServerRefused(f"Redis refused a commit: {causes[0] if causes else outcome}")
        if outcome is None:
            return False
        for number, reply in enumerate(outcome, 1):  # the first of the transaction is MULTI
            if isinstance(reply, ResponseError):
                raise StateConflict(f"only a part was written: {explained(transaction[number], str(reply))}")
        self._renewed_s = sent_s
        self._written_epoch = self.epoch
        self._commits += 1
        self._armed = self._is_ours(replies[-2])
        self._on_written()
        return True

    def _watching(self) -> tuple[Command, ...]:
        return (
            ("WATCH", self._keys.lease),
            lease_read(self._keys.lease),
            ("HMGET", self._keys.header, self._keys.version_field, "epoch"),
        )

    async def _arm(self) -> bool:
        """Begins to watch the lease. True: it is ours. False: nobody's. Raises LeaseLost when it is another's."""
        # What was watched since a commit that Redis refused may have changed long ago, and would spoil the next one.
        _, _, reply, header = await self._exchange(("UNWATCH",), *self._watching())
        held = held_in(reply)
        is_ours = held is not None and self._is_ours(held)
        if is_ours:
            self._note_version(granted(b"", header, self._clock.now_ms())[0])
        elif held is not None and (lease := Lease.parse(held)) is not None:
            raise LeaseLost(f"{self._me}: {lease.process} holds the lease now")
        self._armed = is_ours  # not before: who finds another version than its own writes nothing more
        return is_ours

    async def _reacquire(self) -> None:
        """Takes a lease that ran out while Redis was away, or that is none any more, if nobody wrote in between. Raises
        LeaseLost otherwise."""
        before = self.epoch, self.version
        _, reply, fence, header = await self._exchange(*fencing(self._keys))
        _, epoch = granted(b"", header, self._clock.now_ms())
        if held_in(reply) not in (None, NO_LEASE) or epoch not in (self._written_epoch, self.epoch):
            raise LeaseLost(f"{self._me}: somebody else acted, or the server lost its data, while Redis was away")
        version, highest = granted(fence, header, self._clock.now_ms())
        self.epoch = self.highest_epoch = max(highest, self.epoch) + 1
        self._note_version(version)
        if not await self._send(
            [("SET", self._keys.fence, self.epoch), ("HSET", self._keys.header, "epoch", self.epoch)]
        ):
            raise LeaseLost(f"{self._me}: another process took the lease while Redis was away")
        log.info("lease taken again", extra={"action": "lease_reacquired", "before": before, "epoch": self.epoch})

    def _note_version(self, stored: int) -> None:
        if stored not in (self.version, self.version + 1):
            raise LeaseLost(f"{self._me}: version {stored} is stored, {self.version} was expected")
        self.version = stored

    def _is_ours(self, reply: Any) -> bool:
        try:
            lease = orjson.loads(reply)
            return bool(lease["epoch"] == self.epoch and lease["process"] == self._process)
        except (ValueError, TypeError, KeyError):
            return False  # there is none, or what lies there is no lease

    def _lease_value(self) -> bytes:
        now_ms = self._clock.now_ms()
        return orjson.dumps(
            {
                "owner": str(self._me),
                "process": self._process,
                "host": self._host,
                "incarnation": self.incarnation or self.epoch,
                "epoch": self.epoch,
                "acquired_at": self._acquired_ms / 1000,
                "expires_at": (now_ms + self._lease_ms) / 1000,
                "commits": self._commits,
                "lease_ms": self._lease_ms,
                "in_passing": self._in_passing,
            }
        )

    async def _exchange_watched(self, *commands: Command, most_bytes: int | None = None) -> list[Any]:
        """`_exchange` for what must not happen unless the watch holds: a connection that has broken since then, also
        in the moment before, has taken the watch along, and a new one would know of none."""
        if not self._wire.connected:
            self._armed = False
            raise TransportDown(f"{self._me}: the connection broke, and nothing was sent")
        return await self._exchange(*commands, most_bytes=most_bytes)

    async def _exchange(self, *commands: Command, most_bytes: int | None = None) -> list[Any]:
        self._asked_s = monotonic_s()
        try:
            if not self._wire.connected:
                self._armed = False
                await self._wire.connect()
            replies = await self._wire.exchange(commands, most_bytes=most_bytes)
            refusals = [str(reply) for reply in replies if isinstance(reply, ResponseError)]
            if any(map(is_elsewhere, refusals)):
                await self._wire.close()  # the name may lead to the new primary by now; this connection never will
            if passing := next(filter(passes_soon, refusals), None):
                await self._wire.close()
                raise TransportDown(f"Redis is not ready: {passing}")
        finally:
            self._waited_s, self._asked_s = self.waited_s, None
        self._on_transport(True, "")
        return replies
