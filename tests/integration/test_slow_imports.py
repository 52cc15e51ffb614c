"""A worker whose user modules take their time in the process that forks children: what runs meanwhile, what waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from core.errors import ConfigError
from core.tasks import Task
from tests.executor_bench import Bench, user_handlers
from tests.integration.hierarchy import FAST, House, signed_as
from tests.waiting import until_async
from worker.agent import WorkerAgent

#: In a child process (`opened` exists where it is imported first) it waits until `opened` says how to go on.
CODE = """
import time
from pathlib import Path

from worker import task

OPENED = Path(__file__).with_name("opened")

while not OPENED.exists():
    time.sleep(0.01)
if "broken" in OPENED.read_text():
    raise RuntimeError("only here")


@task("NAME.coroutine")
async def coroutine() -> str:
    return "done on the loop"


@task("NAME.function", timeout=60)
def function() -> str:
    return "done in a child"
"""


class Import:
    """Of a module of its own, for a worker that is to be started; it is over once it is told how it ends."""

    def __init__(self, folder: Path) -> None:
        self.name = name = f"import_{uuid4().hex}"  # in this process no other module, and no other handler, has it
        self.code = str(folder / f"{name}.py")
        self._opened = folder / "opened"
        Path(self.code).write_text(CODE.replace("NAME", name))
        self.ends("")
        self.handlers = user_handlers(self.code)
        self._opened.unlink()

    def ends(self, how: str) -> None:
        fresh = self._opened.with_suffix(".new")
        fresh.write_text(how)
        fresh.replace(self._opened)


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_coroutines_run_while_a_child_process_still_imports_and_functions_wait(
    closing: AsyncExitStack, tmp_path: Path
) -> None:
    module = Import(tmp_path)
    bench = Bench(concurrency=1, handlers=module.handlers, code=module.code)
    closing.push_async_callback(bench.executor.close)
    function = bench.submit(f"{module.name}.function")  # there is one slot, and it is not for this one yet
    starting = asyncio.create_task(bench.executor.start())

    assert (await bench.run(f"{module.name}.coroutine")).result == "done on the loop"
    assert (list(bench.executor.running), bench.executor.queued) == ([], 1)
    assert not starting.done()
    module.ends("well")
    await starting

    assert (await bench.end_of(function)).result == "done in a child"


async def test_what_waits_for_an_import_that_then_fails_is_run_by_another_and_no_attempt_is_spent(
    agents: House, tmp_path: Path
) -> None:
    module = Import(tmp_path)
    await agents.coordinator()
    await agents.distributor()
    me = await agents.client()
    first = WorkerAgent(
        "w1", agents.redis, signed_as("w1"), "d", "k", FAST, modules=[module.code], handlers=module.handlers
    )  # fmt: skip
    starting = asyncio.create_task(first.initialize.aio())
    await me.submit_many.aio(
        [Task(task_type=f"{module.name}.{name}", task_id=name) for name in ("function", "coroutine")]
    )
    assert (await me.result.aio("coroutine", timeout_s=20)).assigned_to == "d/w1"
    await until_async(lambda: "function" in first.state.local_tasks, "it has been handed the other one too")

    module.ends("broken")
    with pytest.raises(ConfigError, match="RuntimeError: only here"):
        await starting
    module.ends("well")
    await agents.worker("w2", handlers=module.handlers, modules=[module.code])

    task = await me.result.aio("function", timeout_s=20)
    assert (task.result, task.assigned_to, task.retry_count) == ("done in a child", "d/w2", 1)
