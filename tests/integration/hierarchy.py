"""A whole hierarchy as objects in one event loop, over a real server; and the user code that its tests run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from coordinator.agent import CoordinatorAgent
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, AgentConfig, RedisConfig
from core.redis_backend.keys import CoordinatorKeys
from core.runtime.agent import Agent
from core.tasks import Task
from distributor.agent import DistributorAgent
from tests.builders import SECRET
from tests.waiting import until_async
from worker.agent import WorkerAgent, gather
from worker.authoring.context import Context, Spawn
from worker.authoring.handlers import HANDLERS, task
from worker.authoring.registry import Handlers

__all__ = [
    "FAST", "House", "add", "house", "is_empty", "runs", "signed_as", "spawn", "status", "wait",
]  # fmt: skip

#: One second without a sign of life, and an agent is gone.
FAST = AgentConfig(heartbeat_s=0.1, failure_timeout_s=1.0, lease_s=1.0)


def signed_as(agent_id: str, **fields: Any) -> A2AConfig:
    return A2AConfig(agent_id=agent_id, **{"token_secret": SECRET.decode(), **fields})


AgentT = TypeVar("AgentT", bound=Agent)


class House:
    """One coordinator, distributors, workers and a client. What is started is closed at the end, the lowest first."""

    def __init__(self, redis: RedisConfig, stack: AsyncExitStack) -> None:
        self.redis = redis
        self._stack = stack
        self.runs: Counter[str] = Counter()  #: task id -> attempts that began
        self.doors: dict[str, asyncio.Event] = {}  #: task id -> what its `wait` handler waits for
        self.log: list[str] = []  #: ids of tasks in the order in which they ended
        self.handlers = _handlers_of(self)

    def door(self, task_id: str) -> asyncio.Event:
        return self.doors.setdefault(task_id, asyncio.Event())

    async def coordinator(self, **fields: Any) -> CoordinatorAgent:
        known = {"a2a_config": signed_as("k"), "config": FAST, **fields}
        return await self._started(CoordinatorAgent("k", self.redis, **known))

    async def distributor(self, name: str = "d", **fields: Any) -> DistributorAgent:
        known = {"coordinator_id": "k", "config": FAST, "a2a_config": signed_as(name), **fields}
        return await self._started(DistributorAgent(name, self.redis, **known))

    async def worker(self, name: str = "w", distributor: str = "d", **fields: Any) -> WorkerAgent:
        known = {
            "distributor_id": distributor, "coordinator_id": "k", "config": FAST, "handlers": self.handlers,
            "a2a_config": signed_as(name), **fields,
        }  # fmt: skip
        return await self._started(WorkerAgent(name, self.redis, **known))

    async def client(self, name: str | None = None, **fields: Any) -> AgentClient:
        client = AgentClient(self.redis, signed_as("client", **fields), "k", name)
        return await self._stack.enter_async_context(client)

    async def _started(self, agent: AgentT) -> AgentT:
        self._stack.push_async_callback(agent.close.aio)
        await agent.initialize.aio()
        return agent


def _handlers_of(home: House) -> Handlers:
    """Handlers of this house alone: HANDLERS is shared by all tests of a process."""
    before = {handler.task_type for handler in HANDLERS}
    _define_work(home)
    _define_spawning(home)
    mine = Handlers()
    for handler in list(HANDLERS):
        if handler.task_type not in before or handler.function is gather:
            mine.add(handler)
        if handler.task_type not in before:
            del HANDLERS._by_type[handler.task_type]
    return mine


def _define_work(home: House) -> None:
    @task("add")
    async def add(payload: list[int], ctx: Context) -> int:
        home.runs[ctx.task_id] += 1
        home.log.append(ctx.task_id)
        return sum(payload)

    @task("wait", timeout=30)
    async def wait(payload: Any, ctx: Context) -> Any:
        home.runs[ctx.task_id] += 1
        await home.door(ctx.task_id).wait()
        return payload

    @task("flaky", retries=3)
    async def flaky(payload: int, ctx: Context) -> dict[str, int]:
        """Fails as often as `payload` says."""
        home.runs[ctx.task_id] += 1
        if ctx.attempt <= payload:
            raise ValueError(f"attempt {ctx.attempt}")
        return {"attempt": ctx.attempt}

    @task("slow", timeout=0.2, retries=0)
    async def slow(ctx: Context) -> None:
        home.runs[ctx.task_id] += 1
        await asyncio.Event().wait()


def _define_spawning(home: House) -> None:
    @task("tree", retries=0)
    async def tree(payload: int, ctx: Context) -> int | Spawn:
        """Two children a level, `payload` levels deep; the result is the number of leaves."""
        home.runs[ctx.task_id] += 1
        if payload == 0:
            return 1
        return ctx.spawn([Task(task_type="tree", payload=payload - 1) for _ in range(2)], then="total")

    @task("total")
    async def total(ctx: Context) -> int:
        return sum(ctx.results())

    @task("spawn", retries=0)
    async def spawn(payload: dict[str, Any], ctx: Context) -> Spawn:
        children = [Task(**child) for child in payload["children"]]
        return ctx.spawn(children, then=payload.get("then"), payload=payload.get("payload"))

    @task("fan", retries=0)
    async def fan(payload: int, ctx: Context) -> Spawn:
        return ctx.spawn([Task(task_type="add", payload=[1]) for _ in range(payload)], then="total")

    @task("swarm", retries=0)
    async def swarm(payload: int, ctx: Context) -> Spawn:
        """Children of 200 kB each."""
        return ctx.spawn([Task(task_type="wait", payload="x" * 200_000) for _ in range(payload)])

    @task("outcomes")
    async def outcomes(payload: Any, ctx: Context) -> dict[str, Any]:
        return {"payload": payload, "children": [[child.task_id, child.status, child.result] for child in ctx.children]}


@asynccontextmanager
async def house(redis: RedisConfig) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        yield House(redis, stack)


async def runs(house: House, task_id: str, attempts: int = 1) -> None:
    await until_async(lambda: house.runs[task_id] >= attempts, f"{task_id} runs")


async def status(client: Any, task_id: str) -> str:
    """As the coordinator has recorded it."""
    return Task.from_json(await client.hget(CoordinatorKeys("k").tasks, task_id)).status


def add(task_id: str, *numbers: int, **fields: Any) -> Task:
    return Task(task_id=task_id, task_type="add", payload=list(numbers), **fields)


def wait(task_id: str, payload: Any = None, **fields: Any) -> Task:
    return Task(task_id=task_id, task_type="wait", payload=payload, **fields)


def spawn(task_id: str, children: list[dict[str, Any]], **then: Any) -> Task:
    return Task(task_id=task_id, task_type="spawn", payload={"children": children, **then})


async def is_empty(client: Any, key: str) -> bool:
    return not await client.exists(key)
