"""The loop on which every agent of every tier runs.

    inbox ─▶ verify ─▶ graph ─▶ commit {state, messages, acknowledgements} ─▶ effects
                └ invalid: quarantined in the next commit, never seen by the graph

A tier provides a Behaviour: its state, its compiled graph, and a method that performs effects. The loop calls it with a
batch at a time, and commits the resulting step as a whole or not at all. If a step fails, the loop discards what the
agent remembers and reads the stored state again.

The reader of the inbox, the heartbeat and the watchdog run beside the turns, each in an asyncio task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core import failpoints
from core.backoff import Backoff
from core.errors import LeaseLost, PeerError, RaceLost, ServerRefused, TransportDown, WorldError
from core.ports import Command
from core.redis_backend.clock import monotonic_s
from core.redis_backend.commit import Committer
from core.redis_backend.keys import ACTIVE, CoordinatorKeys
from core.roles import Action
from core.runtime.agent_setup import AgentSetup
from core.runtime.behaviour import Behaviour
from core.runtime.condition import Condition
from core.runtime.greeting import Greeting
from core.runtime.heartbeat import Heartbeat, extend_key_ttls
from core.runtime.inbox import Entry, Inbox
from core.runtime.inbox_reader import InboxReader
from core.runtime.local_events import LocalEvents
from core.runtime.outbox import Outbox
from core.runtime.poison import PoisonFilter
from core.runtime.registration import Registration
from core.runtime.self_report import SelfReport
from core.runtime.step_writer import StepWriter
from core.runtime.tracing import tell_spans
from core.runtime.watchdog import Watchdog
from core.sealing import Sealed
from core.step import Batch, Call, Drain, Event, Received, Sending, Step, turn_away

__all__ = ["AgentLoop"]

log = logging.getLogger(__name__)

#: After a step of at least this many items the loop pauses this long, so that the next batch is fuller.
BUSY_ITEMS, BUSY_PAUSE_S = 24, 0.003


@dataclass(kw_only=True, eq=False)
class AgentLoop:
    """Runs one agent until it is stopped. Its parts are put together in `assembly`; each keeps what is its own."""

    setup: AgentSetup
    behaviour: Behaviour[Any]
    committer: Committer
    watchdog: Watchdog
    inbox: Inbox
    reader: InboxReader
    outbox: Outbox
    writer: StepWriter
    local_events: LocalEvents
    greeting: Greeting
    report: SelfReport
    heartbeat: Heartbeat
    registration: Registration
    draining: bool = field(default=False, init=False)  #: whether it takes nothing new

    # ---- life ----

    async def start(self) -> None:
        """Takes the lease, reads the stored state and tells the parent. A standby first waits until the lease is free.

        Raises LeaseHeld, TransportDown, ServerRefused; StateConflict when something else is stored as its state."""
        began_s = monotonic_s()
        await self.committer.leaseholder.acquire(standby=self.setup.config.standby)
        self.setup.measures.lease_acquisition.observe(monotonic_s() - began_s)
        failpoints.hit("lease")
        self.outbox.incarnation = self.committer.lease.incarnation
        self.report.started_ms = self.setup.clock.now_ms()
        self.inbox.load(*await self.committer.run_reading(self.setup.keys.seen))
        await self.behaviour.load(self)
        await self.committer.run(("SADD", ACTIVE, self._path))
        await self.heartbeat.send()
        if self.setup.parent:
            await self._announce(Action.AGENT_JOINED)
        log.info(
            "%s is up",
            self.setup.me,
            extra={"action": "agent_started", "epoch": self.committer.lease.epoch, "pid": os.getpid()},
        )

    async def run(self) -> None:
        """Runs until `stop` is called or the behaviour has drained.

        Raises LeaseLost when another process acts for this agent now, or the stored state is not the one that this
        process wrote; Wedged when the watchdog gives up; StateConflict; TransportDown when it is stopped while Redis is
        away."""
        try:
            async with asyncio.TaskGroup() as group:
                beside = (
                    self.reader.run(),
                    self.heartbeat.run(),
                    self.watchdog.run(str(self.setup.me), self.setup.config.heartbeat_s),
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
            self.local_events.end()

    async def finish(self) -> None:
        """Tells the parent that the agent leaves, gives the lease back and closes. What was committed stays for a
        successor. While Redis is away nothing is told, and the lease lapses by itself."""
        try:
            if self.committer.lease.epoch:
                await self.registration.leave()
                if self.setup.parent:
                    assert self.setup.keys.parent_heartbeats
                    # The heartbeat goes in the same transaction, so that nobody finds one after the goodbye.
                    gone = ("HDEL", self.setup.keys.parent_heartbeats, self.setup.me.agent_id)
                    await self._announce(Action.AGENT_LEFT, gone, *extend_key_ttls(self.setup.me.role, self.setup.keys))
                await self.committer.run(("SREM", ACTIVE, self._path))
                await self.committer.leaseholder.release()
        except (WorldError, RaceLost) as error:
            log.warning(
                "the agent has left without telling its parent: %s", error, extra={"action": "agent_left_silently"}
            )
        finally:
            await self.close()

    async def close(self) -> None:
        """Closes both connections, whatever state they are in. Callers that still wait get LeaseLost."""
        self.local_events.end()
        await self.inbox.close()
        await self.committer.close()

    @property
    def _path(self) -> str:
        """Its name in the list of agents."""
        return "/".join(map(str, self.setup.chain))

    @property
    def condition(self) -> Condition:
        """The condition of this agent now, as its health endpoint shows it."""
        if self.watchdog.wedged:
            return Condition("wedged", self.watchdog.problems)
        problems = self.watchdog.problems or tuple(filter(None, [self.greeting.problem]))
        if problems or not self.committer.lease.may_act:
            return Condition("unready", problems or ("its lease may have run out",))
        return Condition("draining" if self.draining or self.stopping else "ready")

    def drain(self) -> None:
        """Accepts nothing new from now on. `run` ends when everything is finished or handed back."""
        self.draining = True
        self.local_events.wake.set()

    def stop(self) -> None:
        """Ends `run` after the current step."""
        self.committer.connection.stop_waiting()
        self.local_events.wake.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self.committer.connection.closing

    # ---- the turn ----

    async def _turns(self) -> None:
        failures = Backoff.under_lease(self.setup.config.lease_s)
        while not self.stopping and not self.behaviour.drained:
            self.watchdog.turns(busy=False)
            await self._wait_for_work()
            self.watchdog.turns(busy=True)
            entries, events, beats = self.reader.take(), self._take_events(), self.heartbeat.take()
            if entries:
                failpoints.hit("read")
            received = self.inbox.verify(entries, self.committer.lease.incarnation)
            try:
                began_s = monotonic_s()
                size = await self._turn(received, beats, events)
                self.setup.measures.step.observe(monotonic_s() - began_s)
                failures.reset()
            except (RaceLost, TransportDown) as error:
                turn_away(events, LeaseLost(f"{self.setup.me} has ended: {error}"))
                raise
            except Exception:
                log.exception("a step failed", extra={"action": "step_failed", "messages": len(received)})
                size = await self._recover(entries, events)
                if not entries:  # a local event may cause it, and recur at once, as a drain does
                    await asyncio.sleep(failures.next(random.random()))
            if size >= BUSY_ITEMS:
                await asyncio.sleep(BUSY_PAUSE_S)

    async def _turn(
        self, received: Sequence[Received], beats: Sequence[Received] = (), events: Sequence[Event] = ()
    ) -> int:
        """Takes one batch through graph, commit and effects. Returns the number of its items."""
        now = self.setup.clock.now()
        batch = Batch(
            now=now,
            mono_ms=int(monotonic_s() * 1000),
            messages=received,
            beats=beats,
            events=events,
            stored=await self._look_up(received, events, now),
            sent=self.outbox.sent,
            windows=self.inbox.windows,
        )
        if received:
            failpoints.hit("verify")
        self.setup.measures.heard(batch)
        step = self.behaviour.decide(batch)
        self.setup.measures.decided(step)
        self.report.ticks += 1
        for action, facts in step.notes:
            log.info(action, extra={"action": action, **facts})
            self.behaviour.state.history.append({"at": batch.now.isoformat(), "action": action, **facts})
        says = step.commits or self.committer.telling(step.events)
        if says or self.inbox.full or (self.inbox.unsettled and batch.beating):
            await self.writer.commit(step)
        for event in events:
            if isinstance(event, Call) and not event.future.done():
                event.future.set_result(event.answer)
        if step.spans:
            tell_spans(step.spans)
        if step.effects:
            await self.writer.assert_held()
            await self.behaviour.perform(step.effects)
        return sum(len(incoming.message.tasks) for incoming in received) + len(events)

    async def _recover(self, entries: Sequence[Entry], events: Sequence[Event]) -> int:
        """Recovers from a step that failed half way: reads the stored state again, and handles the entries one by one,
        to find the one that fails. Local events are dropped, and the callers among them get an error. Returns the
        number of entries."""
        turn_away(events, RuntimeError(f"a step failed; the log of {self.setup.me} says why"))
        # A heartbeat that called these messages read, while the state does not have them, would call them lost.
        self.inbox.rewind(())
        await self.behaviour.load(self)
        seen = await self.committer.look_up_hash(self.setup.keys.seen)
        poison = PoisonFilter(
            self.inbox, reload=lambda: self.behaviour.load(self), handle=self._turn,
            settle=lambda: self.writer.commit(Step()),
        )  # fmt: skip
        await poison.isolate(entries, seen, self.committer.lease.incarnation)
        return len(entries)

    def _take_events(self) -> list[Event]:
        """Removes and returns the queued events. A Drain precedes them if the state does not know that the agent
        drains, as after it was read again."""
        events = self.local_events.take()
        return [Drain(), *events] if self._drain_due else events

    @property
    def _drain_due(self) -> bool:
        return self.draining and not self.behaviour.state.draining

    @property
    def _has_work(self) -> bool:
        return bool(self.reader.entries or self.local_events or self.inbox.full or self._drain_due or self.stopping)

    async def _wait_for_work(self) -> None:
        """Returns when there is work, or the time has come for which the behaviour asked."""
        while not self._has_work:
            self.local_events.wake.clear()
            wake_ms = self.behaviour.next_wake_ms()
            delay_s = None if wake_ms is None else max(0.0, (wake_ms - self.setup.clock.now_ms()) / 1000)
            if delay_s == 0.0:
                return
            if delay_s is None:
                await self.local_events.wake.wait()
                continue
            try:
                async with asyncio.timeout(delay_s):
                    await self.local_events.wake.wait()
            except TimeoutError:
                return

    async def _look_up(self, received: Sequence[Received], events: Sequence[Event], now: datetime) -> dict[str, bytes]:
        ids = self.behaviour.looked_up(received, events, now)
        if not ids:
            return {}
        key, seals, found = CoordinatorKeys(self.setup.me.agent_id).tasks, self.setup.signing.seals, {}
        [records] = await self.committer.look_up(("HMGET", key, *ids))
        for task_id, sealed in zip(ids, records, strict=True):
            if sealed is not None:
                try:
                    found[task_id] = seals.opened(Sealed.TASK, task_id, sealed)
                except PeerError as error:  # a record that cannot be trusted counts as missing
                    self.inbox.put_aside_record(key, task_id.encode(), sealed, error)
        return found

    # ---- beside the turn ----

    async def _greet(self) -> None:
        """Waits until the parent has heard of this agent, and then shows that in a heartbeat."""
        await self.greeting.taken()
        try:
            await self.heartbeat.send()
        except (TransportDown, ServerRefused) as error:
            self.watchdog.note_failure(error)

    async def _announce(self, action: Action, *also: Command) -> None:
        """Tells the parent in a separate message that this agent has come, or leaves."""
        assert self.setup.parent
        step = Step()
        step.extras[Sending(self.setup.parent, action)] = self.report.payload(action, self.heartbeat.number)
        await self.writer.commit(step, *also)
