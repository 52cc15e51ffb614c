"""Limits of models in a hierarchy of two workers, whose graphs call a model that answers at once."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.model_limits import Rates
from core.operations.limits import LimitState, freeze_limit, read_limits, remove_limit, set_limit, waits_at
from core.operations.reader import Reader, reading
from core.redis_backend.keys import CoordinatorKeys
from core.tasks import Task
from tests.integration import limited_user_graphs
from tests.integration.hierarchy import FAST, House
from tests.waiting import until_async
from worker.agent import WorkerAgent
from worker.authoring.handlers import HANDLERS
from worker.authoring.registry import Handlers
from worker.execution.attempt import Running
from worker.hosts import fleet_limits
from worker.hosts.process import HostRun

# What is counted on the server is tested on every kind of it elsewhere.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")

#: The provider of the model, as LangChain tells it.
MODEL = "offlinemodel"
HOUR_MS = 3_600_000
SAID = {"said": ["You say: one two three"]}


@pytest.fixture
async def reader(redis_config: RedisConfig) -> AsyncIterator[Reader]:
    async with reading(redis_config) as opened:
        yield opened


@pytest.fixture
async def workers(agents: House, monkeypatch: pytest.MonkeyPatch) -> list[WorkerAgent]:
    """Two. Each has one slot for agents, and sees at once what limits there are."""
    monkeypatch.setattr(fleet_limits, "NAMES_S", 0.0)
    handlers = Handlers()
    for handler in HANDLERS:
        if handler.module == limited_user_graphs.__name__:
            handlers.add(handler)
    await agents.coordinator()
    await agents.distributor()
    config = FAST.model_copy(update={"agent_concurrency": 1, "hosts": 1})
    told: Any = {"handlers": handlers, "modules": [limited_user_graphs.__name__], "config": config}
    return [await agents.worker(name, **told) for name in ("w1", "w2")]


@pytest.fixture
async def two_workers(agents: House, workers: list[WorkerAgent]) -> AgentClient:
    """Their client."""
    return await agents.client()


async def state(reader: Reader, name: str = MODEL) -> LimitState:
    return next(found for found in await read_limits(reader, "k") if found.name == name)


async def until_waiting(reader: Reader, count: int, name: str = MODEL) -> None:
    async def reached() -> bool:
        return (await state(reader, name)).waiting == count

    await until_async(reached, f"{count} calls wait")


def running_on(worker: WorkerAgent) -> list[Running]:
    return list(worker._worker_behaviour.executor.running.values())


async def _named(client: Any, times: int) -> bool:
    """Whether so many calls have come into the line since the beginning."""
    return int(await client.hget(CoordinatorKeys("k").limit(MODEL)[1], "next")) >= times


async def submitted(client: AgentClient, *task_types: str) -> list[str]:
    return await client.submit_many.aio([Task(task_type=name, payload={"said": []}) for name in task_types])


async def results(client: AgentClient, ids: Sequence[str]) -> list[Any]:
    ended = [await client.result.aio(task_id, 30) for task_id in ids]
    return [task.result if task.status == "completed" else task.error for task in ended]


async def test_runs_that_wait_take_no_slot_and_go_when_they_may(
    two_workers: AgentClient, workers: list[WorkerAgent], reader: Reader, client: Any
) -> None:
    await set_limit(reader, "k", MODEL, Rates(requests_per_minute=10))
    await freeze_limit(reader, "k", MODEL, HOUR_MS)
    waiting = await submitted(two_workers, "speaks", "speaks_in_a_coroutine", "speaks", "speaks_in_a_coroutine")
    await until_waiting(reader, 4)

    # Both slots are theirs, and nevertheless runs that call no model, and tasks that do, end.
    assert await results(two_workers, await submitted(two_workers, *["silent"] * 4)) == [{"said": ["-"]}] * 4
    assert (await state(reader)).waiting == 4
    assert set((await state(reader)).first) == set(waiting)

    last = (await state(reader)).first[-1]
    assert "for limit 'offlinemodel', behind 3 call(s)" in await waits_at(reader, "k", last)
    assert await waits_at(reader, "k", "another") == ""

    # Those of a host that dies leave the line, and begin anew in another one, at its end.
    there = [run.child.host for run in running_on(workers[0]) if isinstance(run.child, HostRun)]
    killed = there[0]
    assert killed.pid
    os.kill(killed.pid, signal.SIGKILL)
    await until_async(lambda: killed.gone, "the host has died")
    await until_async(lambda: _named(client, 4 + len(there)), "they have come again")
    await until_waiting(reader, 4)

    cancelled = waiting.pop()
    await two_workers.cancel.aio(cancelled)
    await until_waiting(reader, 3)

    # Its nodes block, and its host has 33 threads for nodes that do not wait.
    [often] = await submitted(two_workers, "speaks_often")
    await until_waiting(reader, 43)

    await set_limit(reader, "k", MODEL, Rates(requests_per_minute=100_000))
    await freeze_limit(reader, "k", MODEL, 0)
    assert await results(two_workers, waiting) == [SAID] * 3
    assert await results(two_workers, [often]) == [{"said": SAID["said"] * 40}]
    left = await state(reader)
    assert (left.waiting, left.under_way) == (0, 0)


async def test_all_workers_together_make_no_more_calls_than_the_limit_and_their_provider_allow(
    two_workers: AgentClient, reader: Reader, client: Any
) -> None:
    assert await results(two_workers, await submitted(two_workers, "blocks_the_loop")) == [SAID]
    of_code = await submitted(two_workers, *["speaks_as_code_says"] * 4)
    assert await results(two_workers, of_code) == [SAID] * 4
    shared = await state(reader, "of-code")
    assert (shared.allows and shared.allows.by_code, shared.under_way) == (True, 0)
    assert await client.hget(CoordinatorKeys("k").limit("of-code")[1], "next") == b"4"  # both workers have asked
    assert shared.tokens_left in range(5_000 - 4 * 8, 5_001)  # what the model has counted, and no estimate

    await set_limit(reader, "k", MODEL, Rates(requests_per_minute=60))  # six at once, and then one a second
    began_s, _ = await client.time()
    ids = await submitted(two_workers, *["speaks", "speaks_in_a_coroutine"] * 5)
    assert await results(two_workers, ids) == [SAID] * 10
    ended_s, _ = await client.time()
    assert 6 + (ended_s + 1 - began_s) >= 10
    [blocked] = await results(two_workers, await submitted(two_workers, "blocks_the_loop"))
    assert "await model.ainvoke(...)" in blocked.message

    [refused] = await results(two_workers, await submitted(two_workers, "is_refused"))
    assert "too many" in refused.message
    assert (await state(reader)).frozen_ms > HOUR_MS / 2
    waiting = await submitted(two_workers, "speaks", "speaks")
    await until_waiting(reader, 2)
    assert await remove_limit(reader, "k", MODEL)
    assert await results(two_workers, waiting) == [SAID] * 2
