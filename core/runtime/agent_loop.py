"""The only loop: every agent of every tier runs on it.

    inbox ─▶ verify ─▶ graph ─▶ commit {state, messages, acknowledgements} ─▶ effects
                └ bad: quarantined in the next commit, never seen by the graph

A tier gives the loop a Mind: its state, its compiled graph, and hands for the effects. The loop gives the mind batches,
and what a step decided either happens as a whole or not at all. When a commit is refused for good, the memory is
discarded and the stored state is read again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Sequence
from itertools import count
from typing import Any

from core import failpoints
from core.backoff import Backoff
from core.config.settings import AgentConfig
from core.errors import (
    LeaseLost,
    MalformedMessage,
    PeerError,
    RaceLost,
    ServerRefused,
    TransportDown,
    Wedged,
    WorldError,
)
from core.langgraph_state import AgentStatus
from core.operations.reader import memory_told
from core.ports import Command, OpenConnection
from core.redis_backend.clock import ServerClock, monotonic_s
from core.redis_backend.commit import Committer, DeferredCommand
from core.redis_backend.keys import ACTIVE, AgentKeys, CoordinatorKeys, keys_of
from core.redis_backend.tables import Tables
from core.roles import Action, Address, Role
from core.runtime.greeting import Greeting
from core.runtime.heartbeats import Heartbeats
from core.runtime.inbox import Entry, Inbox
from core.runtime.mind import Mind
from core.runtime.outbox import Outbox
from core.runtime.progress import Condition, Progress
from core.runtime.revocations import Revocations
from core.sealing import Sealed
from core.server_info import Memory
from core.signing import Keys
from core.step import Batch, Call, Drain, Received, Sending, Step, Tick, turn_away

__all__ = ["AgentLoop"]

log = logging.getLogger(__name__)

#: After a step with this many items or more the loop pauses briefly, so that the next one finds a fuller batch.
BUSY_ITEMS, BUSY_PAUSE_S = 24, 0.003
#: How long the keys of a worker outlive it, and after how many heartbeats they are told so anew.
OUTLIVE_MS, OUTLIVE_BEATS = 24 * 3600 * 1000, 10


class AgentLoop:
    """Runs one agent until it is stopped. `chain` leads from the coordinator down to it."""

    def __init__(
        self,
        mind: Mind,
        chain: tuple[Address, ...],
        signing: Keys,
        open_connection: OpenConnection,
        config: AgentConfig,
        *,
        after_epoch: int = 0,
    ) -> None:
        """`after_epoch`: the highest fence of an earlier life of this agent in this process."""
        self.me = chain[-1]
        self.parent = chain[-2] if len(chain) > 1 else None
        self.chain = chain
        self.clock = ServerClock()
        self.config = config
        self.keys: AgentKeys = keys_of(chain)
        self._mind = mind
        self.open_connection = open_connection
        self._reader_wire = open_connection()
        self.progress = Progress(config.failure_timeout_s, lambda: self.committer.waited_s)
        self.committer = Committer(
            open_connection(), self.me, self.keys, self.clock, lease_ms=int(config.lease_s * 1000),
            after_epoch=after_epoch, on_transport=self._transport, on_written=self.progress.written,
        )  # fmt: skip
        self.greeting = Greeting(chain, self.committer, config.failure_timeout_s)
        self._inbox = Inbox(
            self._reader_wire, self.me, signing, self.keys, self.clock,
            freshness_ms=int(config.freshness_s * 1000), limit_bytes=config.message_limit_bytes,
        )  # fmt: skip
        self._heartbeats = Heartbeats(self.me, signing, self._inbox.rejected)
        self.revocations = Revocations(chain, signing, self.keys.revoked)
        self.outbox = Outbox(chain, signing)
        self.signing = signing
        self._tables = Tables(self.me, self.committer, self.keys, signing.seals)
        self._entries: list[Entry] = []
        self._room = asyncio.Event()
        self._room.set()
        self._events: list[Any] = []
        self._beats: list[Received] = []
        self._wake = asyncio.Event()
        self._draining = self._stopping = False
        self._over = False
        self._beat_number = 0
        self.ticks = 0
        self.started_ms = 0

    # ---- for the tier ----

    def tell(self, event: Any) -> None:
        """Hands the graph something that happened in this process. Only from the loop's own thread."""
        self._events.append(event)
        self._wake.set()

    async def call(self, name: str, argument: Any = None) -> Any:
        """Asks the graph for something; returns its answer once the step that gave it is committed.

        Raises LeaseLost when this agent ends, or has ended, without an answer."""
        if self._over:
            raise LeaseLost(f"{self.me} is no longer at work")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.tell(Call(name, argument, future))
        return await future

    def put_aside_record(self, key: str, name: bytes, record: bytes, error: PeerError) -> None:
        """Keeps the beginning of a stored record that is not to be believed, with the next commit."""
        self._inbox.put_aside_record(key, name, record, error)

    # ---- life ----

    async def start(self) -> None:
        """Takes the lease, as a standby once it is free, and reads the state. Raises LeaseHeld, TransportDown."""
        await self.committer.acquire(standby=self.config.standby)
        failpoints.hit("lease")
        self.outbox.incarnation = self.committer.lease.incarnation
        self.started_ms = self.clock.now_ms()
        self._inbox.load(*await self.committer.run_reading(self.keys.seen))
        await self._mind.load(self)
        await self.committer.run(("SADD", ACTIVE, "/".join(str(address) for address in self.chain)))
        await self.send_beat()
        if self.parent:
            await self._announce(Action.AGENT_JOINED)
        log.info(
            "%s is up",
            self.me,
            extra={"action": "agent_started", "epoch": self.committer.lease.epoch, "pid": os.getpid()},
        )

    async def run(self) -> None:
        """Turns until `stop`, or until the mind has drained. Raises LeaseLost when another process acts now, or nobody
        and the stored state is not the one that is remembered; Wedged."""
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read())
                beater = group.create_task(self._beat())
                overseer = group.create_task(self._oversee())
                greeter = group.create_task(self._greet())
                try:
                    await self._turns()
                finally:
                    reader.cancel()
                    beater.cancel()
                    overseer.cancel()
                    greeter.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        finally:
            self._end()

    async def finish(self) -> None:
        """Says goodbye and gives the lease back. What was committed stays for a successor."""
        try:
            if self.committer.lease.epoch:
                if self.parent:
                    assert self.keys.parent_heartbeats
                    # In one transaction, so that no heartbeat of ours can be found after the goodbye.
                    gone = ("HDEL", self.keys.parent_heartbeats, self.me.agent_id)
                    await self._announce(Action.AGENT_LEFT, gone, *self._outlive())
                await self.committer.run(("SREM", ACTIVE, "/".join(str(address) for address in self.chain)))
                await self.committer.release()
        except (WorldError, RaceLost) as error:
            log.warning("left without a goodbye: %s", error, extra={"action": "agent_left_silently"})
        finally:
            await self.close()

    async def close(self) -> None:
        """Closes both connections, whatever state they are in."""
        self._end()
        await self._reader_wire.close()
        await self.committer.close()

    def _end(self) -> None:
        self._over = True
        turn_away(self._events, LeaseLost(f"{self.me} is no longer at work"))

    @property
    def condition(self) -> Condition:
        """What this agent says of itself now."""
        if self.progress.wedged:
            return Condition("wedged", self.progress.problems)
        problems = self.progress.problems or tuple(filter(None, [self.greeting.problem]))
        if problems or not self.committer.lease.may_act:
            return Condition("unready", problems or ("its lease may have run out",))
        return Condition("draining" if self._draining or self._stopping else "ready")

    def drain(self) -> None:
        """Takes nothing new; `run` ends when what there is has been finished or handed back."""
        self._draining = True
        self.tell(Drain())

    def stop(self) -> None:
        """Ends `run` after the step under way."""
        self._stopping = True
        self.committer.stop_waiting()
        self._wake.set()

    # ---- the turn ----

    async def _turns(self) -> None:
        while not self._stopping and not self._mind.drained:
            self.progress.turns(busy=False)
            await self._something()
            self.progress.turns(busy=True)
            entries, self._entries = self._entries, []
            self._room.set()
            events, self._events = self._events, []
            beats, self._beats = self._beats, []
            if entries:
                failpoints.hit("read")
            received = self._inbox.verify(entries, self.committer.lease.incarnation)
            try:
                size = await self._turn(received, beats, events)
            except (RaceLost, TransportDown) as error:
                turn_away(events, LeaseLost(f"{self.me} has ended: {error}"))
                raise
            except Exception:
                log.exception("a step failed", extra={"action": "step_failed", "messages": len(received)})
                size = await self._one_by_one(entries, events)
            if size >= BUSY_ITEMS:
                await asyncio.sleep(BUSY_PAUSE_S)

    async def _turn(self, received: Sequence[Received], beats: Sequence[Received], events: Sequence[Any]) -> int:
        """One batch through graph, commit and effects. Returns how many items it had."""
        batch = Batch(
            now=self.clock.now(),
            mono_ms=int(monotonic_s() * 1000),
            messages=received,
            beats=beats,
            events=events,
            stored=await self._look_up(received, events),
            sent=self.outbox.sent,
            windows=self._inbox.windows,
        )
        if received:
            failpoints.hit("verify")
        step = self._mind.think(batch)
        self.ticks += 1
        for action, fields in step.notes:
            log.info(action, extra={"action": action, **fields})
            self._mind.state.history.append({"at": batch.now.isoformat(), "action": action, **fields})
        if step.commits or self._inbox.full or (self._inbox.unsettled and batch.beating):
            await self._commit(step)
        for event in events:
            if isinstance(event, Call) and not event.future.done():
                event.future.set_result(event.answer)
        if step.effects and not self.committer.lease.may_act:
            await self._commit(Step())  # who is no longer sure of the lease does nothing before it is; or LeaseLost
        await self._mind.perform(step.effects)
        return sum(len(one.message.tasks) for one in received) + len(events)

    async def _commit(self, step: Step, *also: Command) -> None:
        failpoints.hit("graph")
        now_ms = self.clock.now_ms()
        commands: list[Command | DeferredCommand] = [*also, *await self._tables.commands(step)]
        commands += self.outbox.commands(step, now_ms)
        for item in step.rejected:
            self._inbox.put_aside(item)
        commands += self._inbox.settle(now_ms)
        backoff = Backoff.under_lease(self.config.lease_s)
        while True:
            try:
                await self.committer.commit(commands, step.changes)
                return
            except ServerRefused as error:
                # Nothing was written, and the same step will be committed: what was decided stays decided.
                self.progress.refused(str(error))
                if self._stopping:
                    raise TransportDown(str(error)) from error
                await asyncio.sleep(backoff.next(random.random()))

    async def _one_by_one(self, entries: Sequence[Entry], events: Sequence[Any]) -> int:
        """After a step failed half way: reads the state again and takes the entries singly, so that each is
        acknowledged by its own commit and only the one that breaks the graph is put aside. Local events are dropped;
        who waits for a call among them is told."""
        turn_away(events, RuntimeError(f"a step failed; the log of {self.me} says why"))
        await self._mind.load(self)
        if self._draining and entries:
            self.tell(Drain())  # it may have been among them, and the state that was read does not know of it
        self._inbox.rewind(await self.committer.look_up_hash(self.keys.seen))
        for entry in entries:
            if not (received := self._inbox.verify([entry], self.committer.lease.incarnation)):
                continue
            try:
                await self._turn(received, [], [])
            except (RaceLost, TransportDown):
                raise
            except Exception as error:
                log.exception("message put aside", extra={"action": "message_put_aside", "entry": entry[0]})
                bad = error if isinstance(error, PeerError) else MalformedMessage(f"{type(error).__name__}: {error}")
                self._inbox.reject(received[0], bad)
                await self._mind.load(self)
                await self._commit(Step())
        return len(entries)

    async def _something(self) -> None:
        """Returns when there is something to do."""
        while not (self._entries or self._events or self._beats or self._inbox.full or self._stopping):
            self._wake.clear()
            wake_ms = self._mind.next_wake_ms()
            delay_s = None if wake_ms is None else max(0.0, (wake_ms - self.clock.now_ms()) / 1000)
            if delay_s == 0.0:
                return
            if delay_s is None:
                await self._wake.wait()
                continue
            try:
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _look_up(self, received: Sequence[Received], events: Sequence[Any]) -> dict[str, bytes]:
        ids = self._mind.looked_up(received, events)
        if not ids:
            return {}
        key, seals, found = CoordinatorKeys(self.me.agent_id).tasks, self.signing.seals, {}
        [records] = await self.committer.look_up(("HMGET", key, *ids))
        for task_id, sealed in zip(ids, records, strict=True):
            if sealed is not None:
                try:
                    found[task_id] = seals.opened(Sealed.TASK, task_id, sealed)
                except PeerError as error:  # as if there were none
                    self.put_aside_record(key, task_id.encode(), sealed, error)
        return found

    # ---- beside the turn ----

    async def _read(self) -> None:
        """Fetches the next entries while a turn is under way, one read ahead."""
        backoff = Backoff.under_lease(self.config.lease_s)
        while True:
            await self._room.wait()
            self.progress.listens(reading=True)
            try:
                entries = await self._inbox.read()
            except (TransportDown, ServerRefused) as error:
                if isinstance(error, ServerRefused):
                    self.progress.reads(False)
                self._went_wrong(error)
                await asyncio.sleep(backoff.next(random.random()))
                continue
            self.progress.reads(True)
            backoff.reset()
            self.progress.listens(reading=False)
            if entries or self._inbox.full:
                self._room.clear()
                self._entries = entries
                self._wake.set()

    async def _beat(self) -> None:
        """Renews the lease, sends this agent's heartbeat and looks at its children's, until cancelled.

        A parent looks once more between two heartbeats, so that a death is known a heartbeat after the failure timeout.
        """
        loop = asyncio.get_running_loop()
        looks = 1 if self.me.role is Role.WORKER else 2
        due_s = loop.time()
        for number in count(1):
            due_s = max(due_s + self.config.heartbeat_s / looks, loop.time())
            await asyncio.sleep(due_s - loop.time())
            try:
                if number % looks:
                    self._hear(*await self.committer.run_reading(self.keys.heartbeats, *self.revocations.look))
                else:
                    await self.send_beat()
                if self.committer.lease.renewal_due:  # it could not go along
                    await self.committer.renew()
            except (TransportDown, ServerRefused) as error:
                self._went_wrong(error)

    async def _greet(self) -> None:
        """Ends when the parent has heard of this agent, and shows it."""
        await self.greeting.taken()
        try:
            await self.send_beat()
        except (TransportDown, ServerRefused) as error:
            self._went_wrong(error)

    async def _oversee(self) -> None:
        """Looks whether the loop gets on, until cancelled. Raises Wedged when it does not."""
        while True:
            due_s = monotonic_s() + self.config.heartbeat_s
            await asyncio.sleep(self.config.heartbeat_s)
            self.progress.stood_still(monotonic_s() - due_s)
            if self.progress.wedged:
                raise Wedged(f"{self.me} is wedged: {self.progress.problems[-1]}. Another process has to take over")

    async def send_beat(self) -> None:
        """One heartbeat to the parent, and one look at the children's. Raises TransportDown, ServerRefused."""
        self._beat_number += 1
        commands: list[Command] = [("TIME",), *self.revocations.look]
        if self.parent and self.keys.parent_heartbeats:
            packed = self.outbox.beat(self.parent, self._beat_payload(), self._beat_number, self.clock.now_ms())
            commands.append(("HSET", self.keys.parent_heartbeats, self.me.agent_id, packed))
        if self._beat_number % OUTLIVE_BEATS == 1:
            commands += self._outlive()
        asked_s = monotonic_s()
        beats, time_reply, *replies = await self.committer.run_reading(self.keys.heartbeats, *commands)
        self.clock.sync(time_reply, asked_s)
        self._mind.state.last_heartbeat = self.clock.now()
        revoked = replies[: len(self.revocations.look)]
        self._hear(beats, *revoked, memory=None if self.parent else await memory_told(self.committer))

    def _hear(self, beats: Sequence[bytes], revoked: object = b"", *, memory: Memory | None = None) -> None:
        self.revocations.take(revoked)
        self._beats += self._heartbeats.new(beats, max(self.clock.now_ms(), self.committer.lease.incarnation))
        self.tell(Tick(memory))

    def _outlive(self) -> list[Command]:
        """Workers come and go under ever new names: what one leaves behind goes a day after it."""
        keys = self.keys
        behind = (keys.header, keys.fence, keys.seen, keys.inbox) if self.me.role is Role.WORKER else ()
        return [("PEXPIRE", key, OUTLIVE_MS) for key in behind]

    def _beat_payload(self) -> dict[str, Any]:
        beat = self._mind.beat()
        parent = self.parent or self.me
        window = self._inbox.windows.get(str(parent))
        return {
            **beat.model_dump(exclude_defaults=True),
            "action": Action.BEAT.value,
            "heard": self.greeting.is_taken,
            "beat": self._beat_number,
            "parent_incarnation": window.incarnation if window else 0,
            "received": window.highest if window else 0,
            "sent": self.outbox.sent.get(parent, 0),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_ms": self.started_ms,
            "messages": {
                "sent": {action: count for (to, action), count in self.outbox.counts.items() if to == parent},
                "received": {action: count for (of, action), count in self._inbox.counts.items() if of == parent},
            },
            "ticks": self.ticks,
            "stalled_ms": round(self.progress.stalled_s * 1000),
            "conflicts": self.committer.conflicts,
        }

    async def _announce(self, action: Action, *also: Command) -> None:
        """Tells the parent that this agent has come, or goes, in a message of its own."""
        assert self.parent
        step = Step()
        step.extras[Sending(self.parent, action)] = {**self._beat_payload(), "action": action.value}
        await self._commit(step, *also)

    def _went_wrong(self, error: WorldError) -> None:
        if isinstance(error, ServerRefused):
            self.progress.refused(str(error))
        else:
            self._transport(False, str(error))

    def _transport(self, up: bool, why: str) -> None:
        was_up = not self.progress.away
        self.progress.transport(up, why)
        if up != was_up:
            self._mind.state.status = AgentStatus.IDLE if up else AgentStatus.RECOVERING
