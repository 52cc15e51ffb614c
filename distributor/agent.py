"""The distributor as an agent: it runs its graph on the loop, and offers its part of the Python API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Never

from msgspec.structs import asdict

from core.config.settings import A2AConfig, AgentConfig, RedisConfig
from core.config.sources import load
from core.errors import BadTask, ForgedRecord, LeaseLost, PeerError, UnknownKey
from core.recording.recorder import recorded
from core.redis_backend.keys import CellKeys
from core.roles import Address, Role
from core.runtime.agent import Agent
from core.runtime.agent_loop import AgentLoop
from core.runtime.behaviour import Figures
from core.runtime.portal import operation
from core.runtime.tier_figures import handing_out
from core.sealing import Sealed, Seals, bare
from core.status_reports import Beat
from core.step import Batch, Event, Received, Step
from core.strategies import Strategy
from core.tasks import Task, TaskStatus, to_begin_now
from core.tier_graph import After, Before, names_of
from distributor.graph import build
from distributor.rules import recall
from distributor.state import AssignTask, DistributorState, HandBack, RegisterWorker, room, waits

__all__ = ["DistributorAgent"]

log = logging.getLogger(__name__)


class DistributorBehaviour:
    """A distributor's state and graph. It has no effects: it only writes and sends."""

    def __init__(
        self, me: Address, coordinator: Address, config: AgentConfig, nodes: Sequence[Before | After] = ()
    ) -> None:
        self._me = me
        self._coordinator = coordinator
        self._config = config
        self._graph = build(nodes)
        self.state: DistributorState = self._new_state()

    def _new_state(self) -> DistributorState:
        return DistributorState(
            self._me.agent_id,
            coordinator=self._coordinator,
            failure_timeout_ms=int(self._config.failure_timeout_s * 1000),
        )

    def decide(self, batch: Batch) -> Step:
        return self._graph.run(self.state, batch, self._config.events)

    def beat(self) -> Beat:
        state = self.state
        in_hand = sum(len(worker.in_flight) for worker in state.workers.values())
        return Beat(
            **asdict(room(state)),
            draining=state.draining,
            strategy=state.strategy.value,
            cpu_percent=mean_of([worker.beat.cpu_percent for worker in state.workers.values()]),
            memory_percent=mean_of([worker.beat.memory_percent for worker in state.workers.values()]),
            ended=tuple(task_id for task_id in state.ended if task_id not in state.local_tasks),  # or it is back
            running=in_hand,
            queued=len(state.queue),
            waits=waits(state),
            done=state.counts.get("completed", 0),
            failed=state.counts.get("failed", 0),
            retried=state.counts.get("retried", 0),
            children={
                name: {
                    "health": worker.health, "in_flight": len(worker.in_flight), "done": worker.beat.done,
                    "failed": worker.beat.failed, "concurrency": worker.beat.concurrency, "pid": worker.beat.pid,
                    "incarnation": worker.incarnation, "running": worker.beat.running,
                }
                for name, worker in state.workers.items()
            },
        )  # fmt: skip

    def figures(self, now: datetime) -> Figures:
        state = self.state
        in_hand = sum(len(worker.in_flight) for worker in state.workers.values())
        gauges = {"open": len(state.local_tasks), "queued": len(state.queue), "in_hand": in_hand}
        return handing_out(state.counts, gauges, state.local_tasks.values(), state.workers.values(), now)

    def looked_up(self, received: Sequence[Received], events: Sequence[Event], now: datetime) -> list[str]:
        return []

    def next_wake_ms(self) -> int | None:
        return self.state.queue.next_wake_ms()

    @property
    def first_waiting(self) -> str | None:
        return self.state.queue.oldest

    @property
    def paused(self) -> bool:
        return False

    @property
    def drained(self) -> bool:
        return self.state.draining and not self.state.local_tasks

    async def load(self, loop: AgentLoop) -> None:
        """Reads its half of the cell. Raises TransportDown, ServerRefused, LeaseLost."""
        self.state = self._new_state()
        self.state.incarnation = loop.committer.lease.incarnation
        key, seals = CellKeys(self._me.agent_id).actual, loop.setup.signing.seals
        header = CellKeys(self._me.agent_id).header
        actual, strategy = await loop.committer.look_up(("HGETALL", key), ("HGET", header, "strategy"))
        if strategy in [each.value.encode() for each in Strategy]:
            self.state.strategy = Strategy(strategy.decode())
        tasks, forged, anew = [], [], []
        for name, sealed in zip(actual[::2], actual[1::2], strict=True):
            try:
                tasks.append(_stored_task(seals, name, sealed))
                anew += [name, again] if (again := _sealed_anew(seals, name, sealed)) else []
            except UnknownKey as error:  # the secret may be wrong, so the record stays, but does not run
                log.warning("%s", error, extra={"action": "record_foreign"})
            except (PeerError, BadTask, ValueError):
                forgery = ForgedRecord("this distributor did not seal it, so it is not trusted")
                loop.inbox.put_aside_record(key, name, sealed, forgery)
                forged.append(name)
        # The coordinator notices tasks whose records were deleted, and hands them over again.
        if commands := [*([("HDEL", key, *forged)] if forged else []), *([("HSET", key, *anew)] if anew else [])]:
            await loop.committer.commit(commands, {})
        recall(self.state, tasks, int(asyncio.get_running_loop().time() * 1000))

    async def perform(self, effects: Sequence[Never]) -> None:
        assert not effects


def mean_of(percents: Sequence[int]) -> int:
    """The mean; 0: there is nothing to take it of."""
    return round(sum(percents) / len(percents)) if percents else 0


def _stored_task(seals: Seals, name: bytes, sealed: bytes) -> Task:
    """The task in a record. A record without a seal can only show a task that has ended here, since nothing is decided
    by it. Raises UnknownKey, ForgedRecord, BadTask, ValueError."""
    if bare(sealed) is sealed:
        shown = Task.from_json(sealed)
        if shown.status.ended or shown.status is TaskStatus.WAITING:
            return shown
    return Task.from_json(seals.opened(Sealed.CELL, name.decode(), sealed))


def _sealed_anew(seals: Seals, name: bytes, sealed: bytes) -> bytes | None:
    """The record, sealed with the new key, if the root secret is being changed and its seal is from the old one;
    otherwise None."""
    return (
        seals.opened_anew(Sealed.CELL, name.decode(), sealed) if seals.rotating and bare(sealed) is not sealed else None
    )


class DistributorAgent(Agent):
    """A distributor, the middle tier, in this process. `initialize` starts it; see Agent for how it ends.

    `nodes` run in its graph beside its own `receive`, `survey` and `dispatch`: see docs/library.md.

    Each call below raises LeaseLost when the agent does not run: before `initialize`, after `close`, or because another
    process acts for its id now. While Redis is away the calls wait, unless they say otherwise.
    """

    def __init__(
        self,
        agent_id: str,
        redis_config: RedisConfig | None = None,
        a2a_config: A2AConfig | None = None,
        coordinator_id: str | None = None,
        config: AgentConfig | None = None,
        nodes: Sequence[Before | After] = (),
    ) -> None:
        config = config or load().agent
        coordinator = Address.of(Role.COORDINATOR, coordinator_id or load().coordinator_id)
        me = Address.of(Role.DISTRIBUTOR, agent_id)
        behaviour = DistributorBehaviour(me, coordinator, config, nodes)
        recording = recorded(behaviour, config, names_of(nodes))
        super().__init__((coordinator, me), recording, redis_config, a2a_config, config)

    @operation
    async def register_worker(self, worker_id: str) -> bool:
        """Records that a worker belongs to this distributor, whether or not it runs. Returns True. Raises LeaseLost."""
        Address.of(Role.WORKER, worker_id)
        return await self.loop.local_events.call(RegisterWorker(worker_id))

    @operation
    async def assign_task_to_worker(self, task: Task, worker_id: str) -> bool:
        """Hands a task to one worker, past the queue. Returns True; False if there is no such worker here, or the task
        is here already.

        Such a task belongs to this distributor: its outcome shows in the shared state, and no client is told. It is
        retried here like other tasks, also by a distributor that takes over after a crash. If this distributor drains
        before the task has ended, the task is abandoned.

        Raises BadTask: the task is malformed or too large. LeaseLost: the outcome is unknown, and repeating the call is
        safe.
        """
        task = to_begin_now(task)
        return await self.loop.local_events.call(AssignTask(task, worker_id))

    @operation
    async def monitor_workers(self) -> None:
        """Reads the heartbeats of the workers now, in addition to the regular interval. Raises LeaseLost,
        TransportDown, ServerRefused."""
        await self.loop.heartbeat.send()

    @operation
    async def acquire_shared_state_lease(self) -> bool:
        """Whether this agent holds the lease of its shared state. If the agent has not started yet, it starts.

        Raises LeaseHeld when another live process holds it; TransportDown and ConfigError as `initialize`."""
        await self._initialize()
        return self.loop.committer.lease.may_act

    @operation
    async def renew_shared_state_lease(self) -> bool:
        """Renews the lease, in addition to the regular renewals. Returns True; False when another process holds it now.
        Raises TransportDown: Redis is away, and nothing is known."""
        try:
            await self.loop.committer.renew()
        except LeaseLost:
            return False
        return True

    async def _hand_back(self) -> None:
        assert self._running
        asking = asyncio.ensure_future(self.loop.local_events.call(HandBack()))
        # If the agent has just drained, nothing answers any more.
        await asyncio.wait({asking, self._running}, return_when=asyncio.FIRST_COMPLETED)
        asking.cancel()
