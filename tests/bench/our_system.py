"""Our three tiers: one coordinator, one distributor, two workers, each started as a user would, with the defaults."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import psutil

from core import AgentClient, RedisConfig, Task
from core.agent_run import RunOptions
from core.config.settings import A2AConfig
from core.errors import AgentSystemError
from core.event_types import EventLevel
from tests.bench.noop import TASK_TYPE
from tests.bench.processes import ProcessGroup
from tests.bench.scrapes import Scrapes
from tests.bench.workload import check, payload
from tests.redis_server import RedisServer

__all__ = ["BATCH", "OurSystem"]

T = TypeVar("T")

WORKERS = ("worker-1", "worker-2")
#: Tasks in flight per worker, as many as the peer has threads.
CONCURRENCY = "32"
#: Tasks that are submitted together where a backlog is kept.
BATCH = 1_000


class OurSystem:
    name = "agent-system"

    def __init__(
        self,
        server: RedisServer,
        *,
        workers: bool = True,
        handlers: Sequence[str] = ("tests.bench.noop",),
        task_type: str = TASK_TYPE,
        level: EventLevel = EventLevel.TASKS,
        agent_concurrency: int | None = None,
        observed: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`handlers`: the modules of the handlers. `level`: how much it tells. `agent_concurrency`: runs of graphs at
        once in a worker; None: the default. `observed`: its variables for traces, while all metrics are read each
        second; None: nobody looks. `settings`: variables that are not the defaults."""
        self.secret = secret = secrets.token_urlsafe(32)
        environment = {**server.environment, "A2A_TOKEN_SECRET": secret, "LOG_LEVEL": "WARNING"}
        environment |= {"AGENT_DATA_DIR": str(server.directory), "AGENT_EVENTS": level}
        if agent_concurrency is not None:
            environment["AGENT_CONCURRENCY"] = str(agent_concurrency)
        self._handlers, self._task_type = handlers, task_type
        self._scrapes = None if observed is None else Scrapes()
        environment |= {**(observed or {}), **(settings or {})}
        self._group = ProcessGroup(server.directory, environment)
        self._start_coordinator()
        self._group.start("distributor", "-m", "distributor", "--id", "distributor-1", *self._probed())
        if workers:
            self.start_workers()
        self._runner = asyncio.Runner()
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        self._client = AgentClient(redis, A2AConfig(agent_id="bench", token_secret=secret), client_id="bench")
        self._runner.run(self._client.open.aio())
        self._open_batches: deque[list[str]] = deque()

    def _start_coordinator(self) -> None:
        self._group.start("coordinator", "-m", "coordinator", "--id", "coordinator-1", *self._probed())

    def replace_coordinator(self) -> None:
        """Kills it, and starts another one."""
        self._group.kill("coordinator")
        self._start_coordinator()

    def start_workers(self) -> None:
        imports = [word for module in self._handlers for word in ("--import", module)]
        for worker in WORKERS:
            self._group.start(
                worker, "-m", "worker", "--id", worker, *imports, "--concurrency", CONCURRENCY, *self._probed()
            )

    def _probed(self) -> tuple[str, ...]:
        """The flags of an agent whose metrics are read."""
        return () if self._scrapes is None else ("--health-port", str(self._scrapes.add()))

    @property
    def processes(self) -> dict[str, psutil.Process]:
        return self._group.processes

    @property
    def client(self) -> AgentClient:
        """It is open, on the loop of `call`."""
        return self._client

    def start(self, role: str, *arguments: str) -> None:
        """Starts another process beside the tiers, with their settings."""
        self._group.start(role, *arguments)

    def call(self, asked: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop of the client."""
        return self._runner.run(asked)

    def run(self, count: int) -> None:
        try:
            self._runner.run(self._run(count))
        except AgentSystemError:
            self._group.complain_if_one_ended()  # that explains more
            raise

    async def _run(self, count: int) -> None:
        await self.collect(await self.submit(count))

    async def collect(self, ids: list[str], timeout_s: float = 60) -> None:
        """Waits for the tasks of one `submit`, and verifies their results. Raises TaskTimeout: none of them has ended
        for so long."""
        check([result async for result in self._results(ids, timeout_s)], len(ids))

    async def submit(self, count: int, task_type: str = "") -> list[str]:
        tasks = [Task(task_type=task_type or self._task_type, payload=payload(number)) for number in range(count)]
        return await self._client.submit_many.aio(tasks)

    async def _results(self, ids: list[str], timeout_s: float) -> AsyncIterator[object]:
        async for task in self._client.as_completed(ids, timeout_s):
            if task.status != "completed":
                raise AssertionError(f"{task.task_id} {task.status}: {task.error}")
            yield task.result["number"] if isinstance(task.result, dict) else task.result  # of a graph, its final state

    def leave(self, count: int, task_type: str) -> None:
        """Submits so many tasks of another type, which nobody collects."""
        self._runner.run(self.submit(count, task_type))

    def fill(self, batches: int) -> None:
        """Submits so many batches and leaves them open."""
        self._runner.run(self._fill(batches))

    async def _fill(self, batches: int) -> None:
        for _ in range(batches):
            self._open_batches.append(await self.submit(BATCH))

    def turn_over(self, batches: int) -> None:
        """Collects the oldest batch and submits a new one, so many times: as many stay open as there were."""
        self._runner.run(self._turn_over(batches))

    async def _turn_over(self, batches: int) -> None:
        for _ in range(batches):
            await self.collect(self._open_batches.popleft())
            await self._fill(1)

    def first_chunks_ms(self, count: int, run: RunOptions) -> list[float]:
        """Milliseconds from when a run tells its first chunk, `{"at_s": time}`, until this process has it; one run
        after the other."""
        return [self._runner.run(self._first_chunk_ms(number, run)) for number in range(count)]

    async def _first_chunk_ms(self, number: int, run: RunOptions) -> float:
        task_id = await self._client.submit.aio(Task(task_type=self._task_type, payload=payload(number), run=run))
        found: list[float] = [
            (time.time() - chunk.data["at_s"]) * 1000
            async for chunk in self._client.stream(task_id, run.stream)
            if chunk.mode in run.stream
        ]
        return found[0]

    def close(self) -> None:
        if self._scrapes is not None:
            self._scrapes.close()
        self._runner.run(self._client.close.aio())
        self._runner.close()
        self._group.close()
