"""A worker whose attempts are worked on outside, by an agent of another program that asks for them and answers.

To its hierarchy it is a worker like any other: it has a lease, signs its messages, and its attempts are fenced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from core.config.settings import A2AConfig, A2ASecrets, AgentConfig, RedisConfig
from core.errors import LeaseLost, NotYours, TransportDown
from core.json_values import result_json
from core.registry.agent_info import Declared
from core.roles import Address, Role
from core.runtime.agent import Agent
from core.status_reports import Beat
from core.step import Request
from core.tasks import TaskError
from worker.agent import WorkerBehaviour
from worker.authoring.context import Progress
from worker.authoring.registry import NO_DEFAULT, Handler, Handlers
from worker.execution.attempt import Finished
from worker.execution.attempts import Attempts
from worker.execution.equipment import Callbacks, Equipment
from worker.execution.offers import Offer, Offers
from worker.hosts.memory import redis_memory

__all__ = ["OutsideWorker"]

#: Answers that are remembered, so that one which is repeated is known.
REMEMBERED = 1_000
#: Seconds that it may take until an answer is recorded.
RECORDED_S = 30.0
#: Seconds that it may take to hand back what was not answered.
LEAVE_S = 5.0


class Told(Request[None]):
    """Asks for nothing: it is answered when all that was told before is committed."""


class OutsideBehaviour(WorkerBehaviour):
    """A worker's, which does not run what it takes."""

    def __init__(
        self, chain: tuple[Address, ...], config: AgentConfig, handlers: Handlers, capabilities: Sequence[str]
    ) -> None:
        self.offers = Offers()
        self.is_paused = False
        self.waited_for: dict[tuple[str, int], asyncio.Event] = {}  #: set once the outcome of an attempt is told
        equipment = Equipment(partial(_executor, self.offers), redis_memory)
        super().__init__(chain, config, handlers, (), capabilities, equipment)

    @property
    def paused(self) -> bool:
        return self.is_paused

    def beat(self) -> Beat:
        beat = super().beat()
        return replace(beat, concurrency=0) if self.is_paused else beat

    def _finished(self, finished: Finished) -> None:
        super()._finished(finished)
        if event := self.waited_for.get((finished.task_id, finished.attempt)):
            event.set()


class OutsideWorker(Agent):
    """The worker of an agent outside. `initialize` joins the hierarchy, and raises as that of any agent."""

    def __init__(
        self,
        declared: Declared,
        concurrency: int,
        timeout_s: float,
        max_attempts: int,
        coordinator_id: str,
        distributor_id: str,
        redis: RedisConfig,
        secrets: A2ASecrets,
        config: AgentConfig,
    ) -> None:
        """`concurrency`: how many tasks it works on at once. `timeout_s`, `max_attempts`: of a task that does not
        say."""
        me = Address.of(Role.WORKER, declared.agent_id)
        chain = Address.of(Role.COORDINATOR, coordinator_id), Address.of(Role.DISTRIBUTOR, distributor_id), me
        own = {"concurrency": concurrency, "agent_concurrency": 1, "health_port": None, "standby": False}
        config = config.model_copy(update={**own, "record": None})
        handlers = Handlers()
        for service in declared.services:
            handlers.add(_handler(service, timeout_s, max_attempts))
        self._outside = OutsideBehaviour(chain, config, handlers, declared.capabilities)
        self._answered: dict[tuple[str, int], None] = {}  # the attempts whose answers were recorded, the oldest first
        a2a = A2AConfig(**{**dict(secrets), "agent_id": declared.agent_id})
        super().__init__(chain, self._outside, redis, a2a, config)
        self._profile = declared
        self.reported = (0.0, 0.0)  #: processors and MiB that the agent outside takes, as it says
        self._takes = lambda: self.reported

    async def _initialize(self) -> bool:
        await super()._initialize()
        await self._outside.start()
        return True

    def pause(self, paused: bool) -> None:
        """Has it take no more tasks, or take them again, from its next heartbeat on."""
        self._outside.is_paused = paused

    @property
    def is_paused(self) -> bool:
        return self._outside.is_paused

    @property
    def holding(self) -> dict[str, int]:
        """The attempts that were taken and not answered, by task id."""
        return {offer.task.task_id: offer.task.attempt for offer in self._outside.offers.open if offer.is_taken}

    async def take(self, held: Collection[str], wait_s: float) -> list[Offer]:
        """See Offers."""
        return await self._outside.offers.take(held, wait_s)

    async def send_heartbeat(self) -> None:
        """Sends a heartbeat now, so that what has changed is known. Raises TransportDown, ServerRefused, LeaseLost."""
        await self.loop.heartbeat.send()

    def report(self, task_id: str, attempt: int, fraction: float | None, note: str) -> None:
        """Passes progress on. Raises NotYours."""
        self._offer(task_id, attempt).report(Progress(task_id, attempt, fraction, note))

    async def complete(self, task_id: str, attempt: int, result: Any) -> None:
        """Returns when the result is recorded, or was before. Raises NotYours; BadTask: it cannot be a result;
        TransportDown: it is not recorded yet, and has to be told again."""
        encoded = Raw(result_json(result))
        await self._answer(task_id, attempt, lambda offer: offer.complete(encoded))

    async def fail(self, task_id: str, attempt: int, error: TaskError) -> None:
        """Returns when the failure is recorded, or was before. Raises NotYours, TransportDown."""
        await self._answer(task_id, attempt, lambda offer: offer.fail(error))

    async def leave(self, *, lost: bool) -> None:
        """Hands back what was not answered, and leaves. `lost`: the agent outside has vanished, so that what it had
        taken counts as an attempt."""
        self._outside.is_paused = True
        await self._outside.offers.end()
        for offer in self._outside.offers.open:
            if lost and offer.is_taken:
                message = f"{self.agent_id}, an agent outside, had it and was not heard any more"
                offer.fail(TaskError(type="agent_lost", message=message, attempt=offer.task.attempt))
            else:
                offer.give_back()
        await self.drain(LEAVE_S)

    async def _answer(self, task_id: str, attempt: int, end: Callable[[Offer], None]) -> None:
        key = task_id, attempt
        if key in self._answered:
            return
        if (told := self._outside.waited_for.get(key)) is None:  # otherwise the same answer is on its way
            offer = self._offer(task_id, attempt)
            told = self._outside.waited_for[key] = asyncio.Event()
            end(offer)
        try:
            async with asyncio.timeout(RECORDED_S):
                await told.wait()
                await self.loop.local_events.call(Told())
        except TimeoutError as error:  # it is still on its way, and whoever tells it again waits for it
            raise TransportDown(f"the answer to task {task_id!r} is not recorded yet; tell it again") from error
        except LeaseLost as error:
            self._outside.waited_for.pop(key, None)
            raise NotYours(
                f"it is not known whether the answer to task {task_id!r} was recorded; if not, others do it again"
            ) from error
        self._outside.waited_for.pop(key, None)
        self._answered[key] = None
        if len(self._answered) > REMEMBERED:
            del self._answered[next(iter(self._answered))]

    def _offer(self, task_id: str, attempt: int) -> Offer:
        offer = self._outside.offers.get(task_id, attempt)
        if offer is None or offer.outcome.done():
            raise NotYours(
                f"attempt {attempt} of task {task_id[:80]!r} is not with {self.agent_id} any more: it was cancelled,"
                " ran for too long, or was given to others. Drop it, and ask for the next task"
            )
        return offer

    def _step_down(self) -> None:
        self._outside.executor.forget_all()

    async def _release(self) -> None:
        await self._outside.close()


def _executor(offers: Offers, handlers: Handlers, config: AgentConfig, callbacks: Callbacks) -> Attempts:
    return Attempts(handlers, offers, concurrency=config.concurrency, **callbacks._asdict())


def _handler(service: str, timeout_s: float, max_attempts: int) -> Handler:
    return Handler(
        task_type=service, function=_not_here, kind="sync", timeout_s=timeout_s, max_attempts=max_attempts,
        memory_mb=None, wants_payload=True, wants_context=False, payload_default=NO_DEFAULT, payload_model=None,
        capabilities=(), module=__name__, qualname=_not_here.__qualname__, source=service,
    )  # fmt: skip


def _not_here(payload: Any) -> Any:
    raise AssertionError("it is worked on outside")
