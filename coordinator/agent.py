"""The coordinator as an agent: it runs its graph on the loop, and performs the effects that the graph decides on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import assert_never

from coordinator.graph import build
from coordinator.open_questions import OPERATORS
from coordinator.records import PAGE, Records
from coordinator.schedules import due_ids, next_firing_ms
from coordinator.state import (
    AssignTask,
    Audit,
    Audited,
    CoordinatorEffect,
    CoordinatorState,
    DropThread,
    Fetch,
    Fetched,
    NotTaken,
    RegisterDistributor,
    Sweep,
    TakenOver,
    TakeOver,
)
from coordinator.takeover import Takeover
from coordinator.usage import next_release_ms
from core import failpoints
from core.a2a_messaging import A2AMessage
from core.access import owner_of
from core.checkpoints.redis_storage import letting_go
from core.config.settings import A2AConfig, AgentConfig, RedisConfig
from core.config.sources import load
from core.errors import AgentSystemError, BadTask, MalformedMessage, NotPermitted
from core.langgraph_state import SharedAgentState
from core.reconciliation import Held
from core.recording.recorder import recorded
from core.redis_backend.bounded_reads import HASH_BYTES
from core.redis_backend.keys import ACTIVE, CellKeys, CoordinatorKeys, keys_of
from core.redis_backend.shared_state import read_shared_state
from core.reports import children_in, task_id_in, task_named
from core.roles import ASKERS, Action, Address, Role, asker_of
from core.runtime.agent import Agent
from core.runtime.agent_loop import AgentLoop
from core.runtime.behaviour import Figures
from core.runtime.portal import operation
from core.runtime.tier_figures import handing_out
from core.runtime.tracing import trace_starts
from core.signing import Signed
from core.status_reports import Beat, beat_in
from core.step import Batch, Call, Event, Received, Step
from core.tasks import Task, as_received
from core.tier_graph import After, Before, names_of

__all__ = ["CoordinatorAgent"]

log = logging.getLogger(__name__)

#: Seconds between two searches for workers that have long been gone.
FORGET_EVERY_S = 3600.0
#: Actions whose items name a task in a field; the items of all others are task ids.
WITH_TASKS = frozenset({Action.SUBMIT_TASK, Action.TASK_RESULT, Action.ANSWER_QUESTION})


class CoordinatorBehaviour:
    """A coordinator's state, its graph, and the effects that it performs."""

    def __init__(
        self,
        coordinator_id: str,
        config: AgentConfig,
        nodes: Sequence[Before | After] = (),
        let_go: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`let_go`: lets a thread go where the graphs of workers remember; None: in this coordinator's Redis."""
        self._config = config
        self._let_go = let_go
        self._graph = build(nodes)
        self._keys = CoordinatorKeys(coordinator_id)
        self._chores: set[asyncio.Task[None]] = set()
        self._forget_due_s = 0.0  # this loop's clock
        self._loop: AgentLoop | None = None
        self._records: Records | None = None
        self.state: CoordinatorState = self._new_state()

    def _new_state(self) -> CoordinatorState:
        return CoordinatorState(
            self._keys.coordinator_id,
            failure_timeout_ms=int(self._config.failure_timeout_s * 1000),
            max_open_tasks=self._config.max_open_tasks,
            max_tree_tasks=self._config.max_tree_tasks,
            max_tree_depth=self._config.max_tree_depth,
            dead_letter_retention_ms=self._config.dead_letter_retention_s * 1000,
            retention_ms=self._config.retention_s * 1000,
            memory_high_water=self._config.memory_high_water,
            traces=trace_starts(),
        )

    def decide(self, batch: Batch) -> Step:
        return self._graph.run(self.state, batch, self._config.events)

    def beat(self) -> Beat:
        return Beat()

    def figures(self, now: datetime) -> Figures:
        state = self.state
        asking = len(state.questions.get(OPERATORS, ()))
        gauges = {"open": len(state.local_tasks), "queued": len(state.queue), "asking": asking, "dead": len(state.dead)}
        return handing_out(state.counts, gauges, state.local_tasks.values(), state.distributors.values(), now)

    def looked_up(self, received: Sequence[Received], events: Sequence[Event], now: datetime) -> list[str]:
        """The ids named by clients, programs, spawning handlers and due schedules that are not open. Those tasks may
        have ended, so their records are looked up."""
        requests = [event.request for event in events if isinstance(event, Call)]
        named = [request.task.task_id for request in requests if isinstance(request, AssignTask)]
        named += due_ids(self.state, now)
        for incoming in received:
            items = incoming.message.tasks
            if incoming.sender.role not in ASKERS:
                items = [child for item in items for child in children_in(item)]
            named += filter(None, map(task_id_in if incoming.message.action in WITH_TASKS else task_named, items))
        return [task_id for task_id in named if task_id not in self.state.local_tasks]

    def next_wake_ms(self) -> int | None:
        queue = self.state.queue
        moments = queue.next_wake_ms(), next_firing_ms(self.state), next_release_ms(self.state, queue.now_ms)
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def first_waiting(self) -> str | None:
        return self.state.queue.oldest

    @property
    def paused(self) -> bool:
        return False

    @property
    def drained(self) -> bool:
        return self.state.draining

    async def load(self, loop: AgentLoop) -> None:
        """Reads the stored state: the open tasks, and what is kept of ended ones. Raises TransportDown, ServerRefused,
        LeaseLost."""
        self._loop = loop
        self.state = self._new_state()
        self.state.incarnation = loop.committer.lease.incarnation
        self._records = Records(self._keys, loop)
        await self._records.load(self.state)

    async def perform(self, effects: Sequence[CoordinatorEffect]) -> None:
        over = [effect.thread_id for effect in effects if isinstance(effect, DropThread)]
        chores = [self._chore(effect) for effect in effects if not isinstance(effect, DropThread)]
        for chore in [*chores, self._drop(over)] if over else chores:
            task = asyncio.get_running_loop().create_task(chore)
            self._chores.add(task)
            task.add_done_callback(self._chores.discard)

    async def stop_chores(self) -> None:
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def _chore(self, effect: TakeOver | Audit | Fetch | Sweep) -> None:
        """Performs one effect beside the loop. A failure is only logged, since the graph decides on it again later, or
        the client asks again."""
        try:
            match effect:
                case TakeOver():
                    await self._take_over(effect)
                case Audit():
                    await self._audit(effect)
                case Fetch():
                    await self._fetch(effect)
                case Sweep():
                    await self._sweep(effect)
                    await self._forget_workers()
                case _:
                    assert_never(effect)
        except Exception as error:
            unforeseen = None if isinstance(error, AgentSystemError) else error
            what = type(effect).__name__
            log.warning(
                "%s failed and will be tried again: %s",
                what,
                error,
                extra={"action": "chore_put_off"},
                exc_info=unforeseen,
            )

    async def _audit(self, effect: Audit) -> None:
        """Reads the cell and the heartbeat of a distributor together, so that both are from the same moment."""
        assert self._loop
        stored, packed = await self._loop.committer.run(
            ("HKEYS", CellKeys(effect.distributor_id).actual), ("HGET", self._keys.heartbeats, effect.distributor_id),
            max_bytes=HASH_BYTES,
        )  # fmt: skip
        if packed is not None:
            number = self._heartbeat_number(effect.distributor_id, packed)
            held = Held(number, frozenset(task_id.decode(errors="replace") for task_id in stored))
            self._loop.local_events.tell(Audited(effect.distributor_id, effect.probe_ms, held))

    def _heartbeat_number(self, distributor_id: str, packed: bytes) -> int:
        """The number of a stored heartbeat of that distributor. Raises PeerError if it is not one, so that somebody
        else wrote it."""
        assert self._loop
        signed = Signed.unpack(packed)
        message = A2AMessage.opened(signed, self._loop.setup.signing)
        if signed.sender != Address(Role.DISTRIBUTOR, distributor_id) or message.action != Action.BEAT:
            raise NotPermitted("this is not that distributor's heartbeat")
        return beat_in(message.payload).beat

    async def _take_over(self, effect: TakeOver) -> None:
        """Takes over the tasks of a distributor that is gone, and tells the graph whether that worked."""
        assert self._loop
        takeover = Takeover(self._loop, effect.distributor_id)
        try:
            await takeover.fence()
            await takeover.note_attempts()
            await takeover.empty()
        except Exception:
            self._loop.local_events.tell(NotTaken(effect.distributor_id))
            raise
        else:
            failpoints.hit("taken")
            self._loop.local_events.tell(TakenOver(effect.distributor_id, takeover.had))
            await takeover.give_back()
        finally:
            await takeover.close()

    async def _fetch(self, effect: Fetch) -> None:
        assert self._loop
        assert self._records
        self._loop.local_events.tell(Fetched(effect.reply, await self._records.found(effect.task_ids)))

    async def _sweep(self, effect: Sweep) -> None:
        """Deletes the records of tasks that ended longer ago than the retention time."""
        assert self._loop
        before_ms = effect.before_ms - int(self._config.retention_s * 1000)
        committer, kept = self._loop.committer, 0
        while True:
            [ids] = await committer.run(("ZRANGEBYSCORE", self._keys.ended, "-inf", before_ms, "LIMIT", kept, PAGE))
            gone = [task_id for task_id in ids if task_id.decode() not in effect.keep]
            if gone:
                about_them = self._keys.tasks, self._keys.budgets, self._keys.webhooks
                deletions = [("HDEL", key, *gone) for key in about_them]
                await committer.commit([*deletions, ("ZREM", self._keys.ended, *gone)], {})
            if len(ids) < PAGE:
                return
            kept += len(ids) - len(gone)

    async def _drop(self, thread_ids: Sequence[str]) -> None:
        """Lets threads go. If that fails, they go when their time is over."""
        assert self._loop
        try:
            if self._let_go is None:
                await self._loop.committer.run(*chain.from_iterable(map(letting_go, thread_ids)))
            else:
                for thread_id in thread_ids:
                    await self._let_go(thread_id)
        except AgentSystemError as error:
            log.warning("%d threads are kept: %s", len(thread_ids), error, extra={"action": "threads_kept"})

    async def _forget_workers(self) -> None:
        """Removes workers from the list of agents that have been gone for so long that their keys have expired. It does
        so every FORGET_EVERY_S."""
        assert self._loop
        now_s = asyncio.get_running_loop().time()
        if now_s < self._forget_due_s:
            return
        self._forget_due_s = now_s + FORGET_EVERY_S
        [members] = await self._loop.committer.run(("SMEMBERS", ACTIVE), max_bytes=HASH_BYTES)
        chains = {}
        for member in members:
            with suppress(MalformedMessage):  # somebody else wrote it
                chains[member] = tuple(map(Address.parse, member.split(b"/")))
        mine = [member for member, chain in chains.items() if chain[0] == self._loop.setup.me and len(chain) == 3]
        epochs = await self._loop.committer.run(*(("HGET", keys_of(chains[member]).header, "epoch") for member in mine))
        if gone := [member for member, epoch in zip(mine, epochs, strict=True) if epoch is None]:
            await self._loop.committer.run(("SREM", ACTIVE, *gone))


class CoordinatorAgent(Agent):
    """A coordinator, the top of the hierarchy, in this process. `initialize` starts it; see Agent for how it ends.

    `nodes` run in its graph beside its own `receive`, `survey` and `dispatch`: see docs/library.md.

    Each call below raises LeaseLost when the agent does not run: before `initialize`, after `close`, or because another
    process acts for its id now. While Redis is away the calls wait.
    """

    def __init__(
        self,
        agent_id: str,
        redis_config: RedisConfig | None = None,
        a2a_config: A2AConfig | None = None,
        config: AgentConfig | None = None,
        nodes: Sequence[Before | After] = (),
    ) -> None:
        config = config or load().agent
        self._coordinator_behaviour = CoordinatorBehaviour(agent_id, config, nodes)
        super().__init__(
            (Address.of(Role.COORDINATOR, agent_id),),
            recorded(self._coordinator_behaviour, config, names_of(nodes)),
            redis_config,
            a2a_config,
            config,
        )

    @operation
    async def assign_task_to_distributor(self, task: Task, distributor_id: str) -> bool:
        """Records the task and hands it to a distributor. The distributor need not run yet: it finds the task when it
        starts. Returns True once both are stored. A task that was assigned before stays where it is. The task belongs
        to the client that this program's settings name (A2A_CLIENT_ID).

        Raises BadTask: the task is malformed or too large, or its id is in use for another task; nothing was kept.
        LeaseLost: the outcome is unknown, and assigning the same task again is safe.
        """
        Address.of(Role.DISTRIBUTOR, distributor_id)
        task = as_received(task)
        answer = await self.loop.local_events.call(AssignTask(task, distributor_id, self._owner))
        if isinstance(answer, BadTask):
            raise answer
        return answer

    @cached_property
    def _owner(self) -> str:
        return owner_of(asker_of(load().client_id))

    @operation
    async def register_distributor(self, distributor_id: str) -> bool:
        """Records that a distributor belongs to this coordinator, whether or not it runs. Returns True. Raises
        LeaseLost."""
        Address.of(Role.DISTRIBUTOR, distributor_id)
        return await self.loop.local_events.call(RegisterDistributor(distributor_id))

    @operation
    async def get_distributor_state(self, distributor_id: str) -> SharedAgentState | None:
        """The shared state of a distributor as it is stored now; None if nothing is stored. Raises LeaseLost;
        TransportDown: Redis is away; ServerRefused."""
        return await read_shared_state(self.loop.committer, distributor_id, self.agent_id)

    @operation
    async def monitor_distributors(self) -> None:
        """Reads the heartbeats of the distributors now, in addition to the regular interval. Raises LeaseLost,
        TransportDown, ServerRefused."""
        await self.loop.heartbeat.send()

    async def _release(self) -> None:
        await self._coordinator_behaviour.stop_chores()
