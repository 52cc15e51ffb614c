"""An executor with user code to run, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from core.checkpoints.redis_items import RedisItems
from core.checkpoints.redis_storage import RedisStorage
from core.config.model_prices import Prices
from core.config.settings import RedisConfig
from core.redis_backend.keys import CoordinatorKeys
from core.redis_client import Wire
from core.tasks import Task, TaskError, TaskStatus, utc_now
from tests.waiting import until_async
from worker.authoring.context import ChildOutcome, Progress
from worker.authoring.handlers import HANDLERS, Handlers, load_modules
from worker.execution.executor import Executor, Finished
from worker.hosts.accounts import Accounts
from worker.hosts.fleet_limits import FleetLimits
from worker.hosts.memory import Memory

__all__ = ["USER_CODE", "USER_GRAPHS", "Bench", "children", "error_of", "memory_of", "user_handlers", "written"]

INTEGRATION = Path(__file__).parent / "integration"
USER_CODE = str(INTEGRATION / "executor_user_code.py")
USER_GRAPHS = str(INTEGRATION / "executor_user_graphs.py")


@asynccontextmanager
async def memory_of(redis_config: RedisConfig) -> AsyncIterator[Memory]:
    """Where graphs remember, on a real server."""
    opened = (
        RedisStorage(lambda: Wire(redis_config)),
        RedisItems(lambda: Wire(redis_config)),
        Accounts(lambda: Wire(redis_config), "budgets", Prices({})),
    )
    limits = FleetLimits(lambda: Wire(redis_config), CoordinatorKeys("k"), "w", lambda *_: lambda: None)
    yield Memory(*opened, limits)
    await limits.close()
    for each in opened:
        await each.close()


class Bench:
    """An executor, and what came out of it."""

    def __init__(
        self,
        concurrency: int = 2,
        handlers: Handlers | None = None,
        code: str = USER_CODE,
        child_memory_mb: int = 2048,
        agent_concurrency: int = 2,
        hosts: int = 2,
        now: Callable[[], datetime] = utc_now,
        on_event: Callable[[Task, dict[str, Any]], None] | None = None,
    ) -> None:
        self.finished: list[Finished] = []
        self.progress: list[Progress] = []
        self.executor = Executor(
            handlers or user_handlers(code),
            concurrency=concurrency,
            child_memory_mb=child_memory_mb,
            agent_concurrency=agent_concurrency,
            hosts=hosts,
            on_finished=self.finished.append,
            on_progress=self.progress.append,
            modules=[code],
            fetch_inputs=self.fetch,
            now=now,
            on_event=on_event,
        )
        self._ids = 0

    async def fetch(self, task: Task) -> list[ChildOutcome]:
        await asyncio.sleep(0)
        status = {"ok": TaskStatus.COMPLETED, "bad": TaskStatus.FAILED}
        error = TaskError(type="ValueError", message="no good", attempt=1)
        return [ChildOutcome(i, "echo", status[d], i, error if d == "bad" else None) for i, d in task.inputs]

    def submit(self, task_type: str, payload: Any = None, **fields: Any) -> Task:
        self._ids += 1
        task = Task(**{"task_id": f"t{self._ids}", "task_type": task_type, "payload": payload, "attempt": 1, **fields})
        self.executor.submit(task)
        return task

    async def run(self, task_type: str, payload: Any = None, **fields: Any) -> Finished:
        return await self.end_of(self.submit(task_type, payload, **fields))

    async def end_of(self, task: Task) -> Finished:
        def ended() -> Finished | None:
            mine = (
                outcome
                for outcome in self.finished
                if (outcome.task_id, outcome.attempt) == (task.task_id, task.attempt)
            )
            return next(mine, None)

        finished = await until_async(ended, f"{task.task_type} ends")
        assert finished is not None
        return finished

    async def begun(self, task: Task) -> None:
        await until_async(lambda: task.task_id in self.executor.running, f"{task.task_type} begins")


def user_handlers(code: str = USER_CODE) -> Handlers:
    """Those of that user code only: other tests may have registered others."""
    load_modules([code])
    handlers = Handlers()
    for handler in HANDLERS:
        if handler.module == Path(code).stem:
            handlers.add(handler)
    return handlers


def error_of(finished: Finished) -> TaskError:
    assert finished.status == "failed"
    assert finished.error is not None
    return finished.error


async def written(path: Path) -> int:
    """The process id that a handler writes to ``path`` when it begins."""
    text: str = await until_async(lambda: path.read_text() if path.exists() else "", "the handler runs")
    return int(text)


def children() -> list[psutil.Process]:
    """The forkservers of this process and what they have forked; the servers of the tests are its children as well."""
    forkservers = [child for child in psutil.Process().children() if "worker.children.forkserver" in child.cmdline()]
    return [process for forkserver in forkservers for process in (forkserver, *forkserver.children(recursive=True))]
