"""The only loop: every agent of every tier runs on it.

    inbox ─▶ verify ─▶ graph ─▶ commit {state, messages, acknowledgements} ─▶ effects
                └ bad: quarantined in the next commit, never seen by the graph

A tier gives the loop a Behaviour: its state, its compiled graph, and hands for the effects. The loop gives the
behaviour batches, and what a step decided either happens as a whole or not at all. When a commit is refused for good,
the memory is discarded and the stored state is read again.

Beside the turns run the reader of the inbox, the heartbeat and the watchdog, each with a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from msgspec import to_builtins

from core import failpoints
from core.backoff import Backoff
from core.config.settings import AgentConfig
from core.errors import LeaseLost, PeerError, RaceLost, ServerRefused, TransportDown, WorldError
from core.langgraph_state import AgentStatus
from core.ports import Command, OpenConnection
from core.redis_backend.clock import ServerClock, monotonic_s
from core.redis_backend.commit import Committer, DeferredCommand
from core.redis_backend.keys import ACTIVE, AgentKeys, CoordinatorKeys, keys_of
from core.redis_backend.tables import Tables
from core.roles import Action, Address
from core.runtime.behaviour import Behaviour
from core.runtime.condition import Condition
from core.runtime.greeting import Greeting
from core.runtime.heard_heartbeats import HeardHeartbeats
from core.runtime.heartbeat import Heartbeat, extend_key_ttls
from core.runtime.inbox import Entry, Inbox
from core.runtime.inbox_reader import InboxReader
from core.runtime.outbox import Outbox
from core.runtime.poison import PoisonFilter
from core.runtime.revocations import Revocations
from core.runtime.watchdog import Watchdog
from core.sealing import Sealed
from core.signing import KeyRing
from core.step import Answer, Batch, Call, Drain, Event, HeartbeatDue, Received, Request, Sending, Step, turn_away

__all__ = ["AgentLoop"]

log = logging.getLogger(__name__)

#: After a step with this many items or more the loop pauses briefly, so that the next one finds a fuller batch.
BUSY_ITEMS, BUSY_PAUSE_S = 24, 0.003


class AgentLoop:
    """Runs one agent until it is stopped. `chain` leads from the coordinator down to it."""

    def __init__(
        self,
        behaviour: Behaviour[Any],
        chain: tuple[Address, ...],
        signing: KeyRing,
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
        self._behaviour = behaviour
        self.open_connection = open_connection
        self._reader_wire = open_connection()
        self.watchdog = Watchdog(
            config.failure_timeout_s, lambda: self.committer.connection.waited_s, self._on_transport
        )
        self.committer = Committer(
            open_connection(), self.me, self.keys, self.clock, lease_ms=int(config.lease_s * 1000),
            after_epoch=after_epoch, on_transport=self.watchdog.transport, on_written=self.watchdog.written,
        )  # fmt: skip
        self.greeting = Greeting(chain, self.committer, config.failure_timeout_s)
        self._inbox = Inbox(
            self._reader_wire, self.me, signing, self.keys, self.clock,
            freshness_ms=int(config.freshness_s * 1000), limit_bytes=config.message_limit_bytes,
        )  # fmt: skip
        self._refusals = Backoff.under_lease(config.lease_s)
        self._wake = asyncio.Event()
        self._reader = InboxReader(self._inbox, self.watchdog, Backoff.under_lease(config.lease_s), self._wake.set)
        self.revocations = Revocations(chain, signing, self.keys.revoked)
        self.outbox = Outbox(chain, signing)
        self.heartbeat = Heartbeat(
            chain, config, self.keys, self.clock, self.committer, self.outbox, self.revocations,
            HeardHeartbeats(self.me, signing, self._inbox.rejected), self.watchdog,
            payload=self._beat_payload, on_sent=self._note_heartbeat,
            on_heard=lambda memory: self.tell(HeartbeatDue(memory)),
        )  # fmt: skip
        self._poison = PoisonFilter(
            self._inbox, reload=lambda: behaviour.load(self), handle=self._turn, settle=lambda: self._commit(Step())
        )
        self.signing = signing
        self._tables = Tables(self.me, self.committer, self.keys, signing.seals)
        self._events: list[Event] = []
        self.draining = False  #: whether it takes nothing new
        self._stopping = self._ended = False
        self.ticks = 0
        self.started_ms = 0

    # ---- for the tier ----

    def tell(self, event: Event) -> None:
        """Hands the graph something that happened in this process. Only from the loop's own thread."""
        self._events.append(event)
        self._wake.set()

    def retract(self, kinds: Collection[type[Event]]) -> None:
        """Takes back the events of these kinds that no step has been given yet."""
        self._events = [event for event in self._events if type(event) not in kinds]

    async def call(self, request: Request[Answer]) -> Answer:
        """Asks something of the graph; returns its answer once the step that gave it is committed.

        Raises LeaseLost when this agent ends, or has ended, without an answer."""
        if self._ended:
            raise LeaseLost(f"{self.me} is no longer at work")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.tell(Call(request, future))
        return await future

    def put_aside_record(self, key: str, name: bytes, record: bytes, error: PeerError) -> None:
        """Keeps the beginning of a stored record that is not to be believed, with the next commit."""
        self._inbox.put_aside_record(key, name, record, error)

    # ---- life ----

    async def start(self) -> None:
        """Takes the lease, as a standby once it is free, and reads the state. Raises LeaseHeld, TransportDown."""
        await self.committer.leaseholder.acquire(standby=self.config.standby)
        failpoints.hit("lease")
        self.outbox.incarnation = self.committer.lease.incarnation
        self.started_ms = self.clock.now_ms()
        self._inbox.load(*await self.committer.run_reading(self.keys.seen))
        await self._behaviour.load(self)
        await self.committer.run(("SADD", ACTIVE, "/".join(str(address) for address in self.chain)))
        await self.heartbeat.send()
        if self.parent:
            await self._announce(Action.AGENT_JOINED)
        log.info(
            "%s is up",
            self.me,
            extra={"action": "agent_started", "epoch": self.committer.lease.epoch, "pid": os.getpid()},
        )

    async def run(self) -> None:
        """Turns until `stop`, or until the behaviour has drained. Raises LeaseLost when another process acts now, or
        nobody and the stored state is not the one that is remembered; Wedged."""
        try:
            async with asyncio.TaskGroup() as group:
                beside = (
                    self._reader.run(),
                    self.heartbeat.run(),
                    self.watchdog.run(str(self.me), self.config.heartbeat_s),
                    self._greet(),
                )
                tasks = [group.create_task(work) for work in beside]
                try:
                    await self._turns()
                finally:
                    for task in tasks:
                        task.cancel()
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
                    await self._announce(Action.AGENT_LEFT, gone, *extend_key_ttls(self.me.role, self.keys))
                await self.committer.run(("SREM", ACTIVE, "/".join(str(address) for address in self.chain)))
                await self.committer.leaseholder.release()
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
        self._ended = True
        turn_away(self._events, LeaseLost(f"{self.me} is no longer at work"))

    @property
    def condition(self) -> Condition:
        """What this agent says of itself now."""
        if self.watchdog.wedged:
            return Condition("wedged", self.watchdog.problems)
        problems = self.watchdog.problems or tuple(filter(None, [self.greeting.problem]))
        if problems or not self.committer.lease.may_act:
            return Condition("unready", problems or ("its lease may have run out",))
        return Condition("draining" if self.draining or self._stopping else "ready")

    def drain(self) -> None:
        """Takes nothing new; `run` ends when what there is has been finished or handed back."""
        self.draining = True
        self._wake.set()

    def stop(self) -> None:
        """Ends `run` after the step under way."""
        self._stopping = True
        self.committer.connection.stop_waiting()
        self._wake.set()

    # ---- the turn ----

    async def _turns(self) -> None:
        failures = Backoff.under_lease(self.config.lease_s)
        while not self._stopping and not self._behaviour.drained:
            self.watchdog.turns(busy=False)
            await self._wait_for_work()
            self.watchdog.turns(busy=True)
            entries, events, beats = self._reader.take(), self._take_events(), self.heartbeat.take()
            if entries:
                failpoints.hit("read")
            received = self._inbox.verify(entries, self.committer.lease.incarnation)
            try:
                size = await self._turn(received, beats, events)
                failures.reset()
            except (RaceLost, TransportDown) as error:
                turn_away(events, LeaseLost(f"{self.me} has ended: {error}"))
                raise
            except Exception:
                log.exception("a step failed", extra={"action": "step_failed", "messages": len(received)})
                size = await self._recover(entries, events)
                if not entries:  # what fails may come again by itself, as a drain does
                    await asyncio.sleep(failures.next(random.random()))
            if size >= BUSY_ITEMS:
                await asyncio.sleep(BUSY_PAUSE_S)

    async def _turn(
        self, received: Sequence[Received], beats: Sequence[Received] = (), events: Sequence[Event] = ()
    ) -> int:
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
        step = self._behaviour.decide(batch)
        self.ticks += 1
        for action, facts in step.notes:
            log.info(action, extra={"action": action, **facts})
            self._behaviour.state.history.append({"at": batch.now.isoformat(), "action": action, **facts})
        if step.commits or self._inbox.full or (self._inbox.unsettled and batch.beating):
            await self._commit(step)
        for event in events:
            if isinstance(event, Call) and not event.future.done():
                event.future.set_result(event.answer)
        if step.effects and not self.committer.lease.may_act:
            await self._until_written(self.committer.renew)  # only a holder acts: who is not sure asks, or has lost it
        await self._behaviour.perform(step.effects)
        return sum(len(incoming.message.tasks) for incoming in received) + len(events)

    async def _commit(self, step: Step, *also: Command) -> None:
        failpoints.hit("graph")
        now_ms = self.clock.now_ms()
        commands: list[Command | DeferredCommand] = [*also, *await self._tables.commands(step)]
        commands += self.outbox.commands(step, now_ms)
        for item in step.rejected:
            self._inbox.put_aside(item)
        commands += self._inbox.settle(now_ms)
        await self._until_written(lambda: self.committer.commit(commands, step.changes))

    async def _until_written(self, write: Callable[[], Awaitable[object]]) -> None:
        """Repeats `write` while Redis refuses it: nothing was written, and what was decided stays decided."""
        while True:
            try:
                await write()
                self._refusals.reset()
                return
            except ServerRefused as error:
                self.watchdog.refused(str(error))
                if self._stopping:
                    raise TransportDown(str(error)) from error
                await asyncio.sleep(self._refusals.next(random.random()))

    async def _recover(self, entries: Sequence[Entry], events: Sequence[Event]) -> int:
        """After a step failed half way: reads the state again, and takes the entries one by one. Local events are
        dropped; who waits for a call among them is told. Returns how many entries there were."""
        turn_away(events, RuntimeError(f"a step failed; the log of {self.me} says why"))
        await self._behaviour.load(self)
        seen = await self.committer.look_up_hash(self.keys.seen)
        await self._poison.isolate(entries, seen, self.committer.lease.incarnation)
        return len(entries)

    def _take_events(self) -> list[Event]:
        """What happened in this process. That the agent drains is told to every state that does not know of it: also to
        one that was read again."""
        events, self._events = self._events, []
        return [Drain(), *events] if self._drain_due else events

    @property
    def _drain_due(self) -> bool:
        return self.draining and not self._behaviour.state.draining

    @property
    def _has_work(self) -> bool:
        return bool(self._reader.entries or self._events or self._inbox.full or self._drain_due or self._stopping)

    async def _wait_for_work(self) -> None:
        """Returns when there is something to do."""
        while not self._has_work:
            self._wake.clear()
            wake_ms = self._behaviour.next_wake_ms()
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

    async def _look_up(self, received: Sequence[Received], events: Sequence[Event]) -> dict[str, bytes]:
        ids = self._behaviour.looked_up(received, events)
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

    async def _greet(self) -> None:
        """Ends when the parent has heard of this agent, and shows it."""
        await self.greeting.taken()
        try:
            await self.heartbeat.send()
        except (TransportDown, ServerRefused) as error:
            self.watchdog.note_failure(error)

    def _note_heartbeat(self) -> None:
        self._behaviour.state.last_heartbeat = self.clock.now()

    def _beat_payload(self) -> dict[str, Any]:
        beat = self._behaviour.beat()
        parent = self.parent or self.me
        window = self._inbox.windows.get(str(parent))
        return {
            **to_builtins(beat),
            "action": Action.BEAT.value,
            "heard": self.greeting.is_taken,
            "beat": self.heartbeat.number,
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
            "stalled_ms": round(self.watchdog.stalled_s * 1000),
            "conflicts": self.committer.conflicts,
        }

    async def _announce(self, action: Action, *also: Command) -> None:
        """Tells the parent that this agent has come, or goes, in a message of its own."""
        assert self.parent
        step = Step()
        step.extras[Sending(self.parent, action)] = {**self._beat_payload(), "action": action.value}
        await self._commit(step, *also)

    def _on_transport(self, up: bool) -> None:
        self._behaviour.state.status = AgentStatus.IDLE if up else AgentStatus.RECOVERING
