"""A coordinator, its distributors and their workers in this process, without a server:

    async with LocalHierarchy(modules=["my_tasks"], workers=2) as client:
        print(await client.value.aio(await client.submit.aio(Task(task_type="word_count", payload="to be"))))

They are the very agents that processes run; only the store and the executor of user code are others. Nothing is written
to disk, nothing listens anywhere, and nothing outlives the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from core.agent_event import AgentEvent
from core.client.agent_client import AgentClient
from core.client.server import Server, configured_server
from core.config.settings import A2ASecrets, AgentConfig, RedisConfig
from core.errors import BadTask, ConfigError, EventLoopError, TaskTimeout
from core.launch.hierarchy import distributor_name
from core.local.agent import LocalAgent
from core.local.server import MemoryServer
from core.local.tiers import memory_here, new_behaviour, user_code
from core.memory_backend.clock import ServerTime, VirtualLoop
from core.operations.event_feed import EventFeed, Position, Wanted
from core.redis_backend.clock import monotonic_s
from core.roles import Address, Role
from core.runtime.portal import Resident, operation, refuse_in_a_loop
from core.tasks import Task
from core.waits import Question

__all__ = ["LocalHierarchy"]

T = TypeVar("T")

#: Seconds between two looks at whether something has happened that nobody tells of.
POLL_S = 0.01
#: How long its calls wait unless they are told, in seconds of its time.
WAIT_S = 600.0
NOT_AT_WORK = "this hierarchy is not at work: use it as a context manager, or call start()"


class LocalHierarchy(Resident):
    """Use it as a context manager, in a script or in a coroutine: it gives an AgentClient. Or `start` and `close`."""

    def __init__(
        self,
        modules: Sequence[str] = (),
        *,
        handlers: Any = None,
        workers: int = 2,
        distributors: int = 1,
        config: AgentConfig | None = None,
        redis_config: RedisConfig | None = None,
        a2a_config: A2ASecrets | None = None,
        coordinator_id: str = "coordinator-1",
        virtual: bool = False,
    ) -> None:
        """`modules` are imported, as workers do (`--import`). The workers run what @task and @agent have registered in
        this process; `handlers`: a Handlers of those alone. `config`: of all agents; None: the defaults.
        `redis_config`: the store is there and not here, with the secrets `a2a_config` or those of the environment.
        `virtual`: a script that uses it has a loop of virtual time, which passes at once whenever all wait (see
        core.memory_backend.clock).

        Raises ConfigError: a module cannot be imported, or a distributor would have no worker."""
        if not 1 <= distributors <= workers:
            raise ConfigError(f"{workers} workers cannot serve {distributors} distributors: each needs one at least.")
        if virtual and redis_config is not None:
            raise ConfigError("there is no virtual time on a real server: leave out redis_config, or virtual")
        self._handlers = user_code(modules) if handlers is None else handlers
        self._config = config or AgentConfig()
        self._redis, self._a2a = redis_config, a2a_config
        self._coordinator = Address.of(Role.COORDINATOR, coordinator_id)
        self._counts = distributors, workers
        self._virtual = virtual
        self._agents: list[LocalAgent] = []
        self._client: AgentClient | None = None
        self._server: Server | None = None
        self._now_s: Callable[[], float] = time.time
        if virtual:
            self._owner_loop, self._process = VirtualLoop(), os.getpid()

    @property
    def client(self) -> AgentClient:
        """The client of the hierarchy, between start and close. Raises EventLoopError before and after."""
        if self._client is None:
            raise EventLoopError(NOT_AT_WORK)
        return self._client

    @property
    def server(self) -> Server:
        """Where everything is kept, for other clients in this process: AgentClient(coordinator_id=..., server=...).
        Raises EventLoopError before start and after close."""
        if self._client is None or self._server is None:
            raise EventLoopError(NOT_AT_WORK)
        return self._server

    @property
    def agents(self) -> list[Address]:
        """All of its agents, each after those above it."""
        return [chain[-1] for chain in self._chains()]

    @property
    def workers(self) -> list[str]:
        """The ids of its workers."""
        return [f"worker-{number}" for number in range(1, self._counts[1] + 1)]

    @operation
    async def start(self) -> None:
        """Returns when all agents are at work; does nothing when they are. Raises TransportDown, ConfigError: the Redis
        that was named cannot be used. LeaseHeld: other agents with these ids use it."""
        if self._client is not None:
            return
        loop = asyncio.get_running_loop()
        self._now_s = ServerTime(loop) if isinstance(loop, VirtualLoop) else time.time
        server, memory = await self._store()
        self._server = server
        try:
            for chain in self._chains():
                made = partial(new_behaviour, chain, self._config, self._handlers, memory)
                agent = LocalAgent(chain, server, self._config, made)
                self._agents.append(agent)
                await agent.start()
            self._client = AgentClient(
                coordinator_id=self._coordinator.agent_id, client_id="local", server=server
            )  # fmt: skip
            await self._client.open.aio()
        except BaseException:
            await self._close()
            raise

    @operation
    async def close(self) -> None:
        """Ends all agents, the lowest first. What was not finished is lost with the store, unless that is Redis."""
        await self._close()

    @operation
    async def drain(self, timeout_s: float) -> bool:
        """Lets the workers finish what they run. They take nothing new, and hand back what is not finished within
        `timeout_s`: close it afterwards, and on a Redis the tasks wait there for who comes next. Returns whether all
        was finished."""
        workers = [agent for agent in self._agents if agent.role is Role.WORKER]
        return all(await asyncio.gather(*(worker.drain(timeout_s) for worker in workers)))

    @property
    def now(self) -> datetime:
        """The time by its clock, by which deadlines are meant; aware, UTC."""
        return datetime.fromtimestamp(self._now_s(), UTC)

    @operation
    async def submit_and_wait(
        self, /, task: Task | str, payload: Any = None, timeout_s: float = WAIT_S, **fields: Any
    ) -> Task:
        """Submits a task, given as such or as its type with its payload and other fields, and returns it once it has
        ended: look at its `status`, `result` and `error`. Raises TaskTimeout: it has not ended within `timeout_s` of
        the hierarchy's time; TaskRefused and BadTask, as AgentClient.submit."""
        given = task if isinstance(task, Task) else Task(task_type=task, payload=payload, **fields)
        return await self.client.result.aio(await self.client.submit.aio(given), timeout_s)

    @operation
    async def questions(self, timeout_s: float = WAIT_S) -> list[Question]:
        """The open questions, once there is one: `client.answer(question.task_id, question.interrupt_id, value)`.
        Raises TaskTimeout: nobody has asked anything within `timeout_s`."""
        ends_s = monotonic_s() + timeout_s
        while not (asked := await self.client.questions.aio()):
            await self._look_again(ends_s, "nobody has asked anything")
        return asked

    @operation
    async def events(self, *types: str, task: str | None = None, root: str | None = None) -> list[AgentEvent]:
        """What the agents have told so far, the oldest first: of these types (see EventType; none: of all), and of that
        task, or of `root` and all below it. Raises BadEvent: there is no such type."""
        return [event async for event in self._feed().events(Position(), Wanted.of(types, task, root), live=False)]

    @operation
    async def kill(self, worker: str | None = None, timeout_s: float = WAIT_S) -> str:
        """Ends a worker at once, as if its process had died; None: one that runs a task, once there is one. It is
        started again, and acts when its lease has lapsed; its tasks are tried again. A plain function goes on in its
        thread. Returns the worker's id. Raises BadTask: there is no such worker; TaskTimeout: none has run anything
        within `timeout_s`."""
        if worker is not None and worker not in self.workers:
            raise BadTask(f"there is no worker {worker!r} here: it is one of {', '.join(self.workers)}")
        ends_s = monotonic_s() + timeout_s
        while not (found := [agent for agent in self._agents if agent.name == worker or (not worker and agent.runs)]):
            await self._look_again(ends_s, "no worker has run anything")
        found[0].kill()
        return found[0].name

    @operation
    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine where the hierarchy lives, in its time. Returns what it returns."""
        return await coroutine

    @operation
    async def sleep(self, seconds: float) -> None:
        """Returns when so many seconds of the hierarchy's time have passed."""
        await asyncio.sleep(seconds)

    async def _look_again(self, ends_s: float, problem: str) -> None:
        if monotonic_s() >= ends_s:
            raise TaskTimeout(f"{problem} for as long as this call waits (timeout_s)")
        await asyncio.sleep(POLL_S)

    def _feed(self) -> EventFeed:
        assert self._server
        return EventFeed(
            self._server.connection, self._coordinator.agent_id, self._server.seals_of_agents(self._coordinator)
        )

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close.aio()
        while self._agents:
            await self._agents.pop().stop()

    async def _store(self) -> tuple[Server, Any]:
        """Where everything is kept, and where graphs remember; None: there as well."""
        if self._redis is not None:
            redis = configured_server(self._redis, self._a2a, self._coordinator)
            await redis.reach((self._coordinator,))
            return redis, None
        server = MemoryServer(self._now_s)
        memory = memory_here(server.connection, self._coordinator.agent_id, self._config, server.now_ms)
        server.checkpoints = memory.storage
        return server, memory

    def _chains(self) -> list[tuple[Address, ...]]:
        """All agents, each after those above it."""
        top, (distributors, _) = self._coordinator, self._counts
        below = [
            Address.of(Role.DISTRIBUTOR, distributor_name(top.agent_id, number + 1)) for number in range(distributors)
        ]
        workers = [
            (top, below[number % distributors], Address.of(Role.WORKER, name))
            for number, name in enumerate(self.workers)
        ]
        return [(top,), *((top, distributor) for distributor in below), *workers]

    def _leave_loop(self, *, forked: bool) -> None:
        if self._client is not None:
            raise EventLoopError(
                "this hierarchy has its agents on an event loop that has ended, or in the process that this one was"
                " forked from: make one here, and close each before its loop ends."
            )

    def __enter__(self) -> AgentClient:
        refuse_in_a_loop("use `async with`.")
        self.start()
        return self.client

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._virtual and isinstance(self._owner_loop, VirtualLoop):
            self._owner_loop.run_until_complete(self._owner_loop.shutdown_asyncgens())
            self._owner_loop.close()

    async def __aenter__(self) -> AgentClient:
        await self.start.aio()
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.close.aio()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._coordinator}, {len(self._agents)} agents)"
