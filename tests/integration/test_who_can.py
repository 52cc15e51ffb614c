"""A task finds the worker that can do it, wherever that one is and whenever it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from core.config.settings import RedisConfig
from core.redis_backend.keys import CellKeys
from tests.integration.hierarchy import House, add, house, is_empty, wait
from tests.waiting import until_async
from worker.authoring.registry import Handlers


@pytest.fixture
async def home(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as built:
        yield built


def without(handlers: Handlers, task_type: str) -> Handlers:
    left = Handlers()
    for handler in handlers:
        if handler.task_type != task_type:
            left.add(handler)
    return left


async def test_a_task_that_needs_what_two_workers_have_between_them_waits_for_one_that_has_it_all(
    home: House, client: Any
) -> None:
    await home.coordinator()
    await home.distributor("d")
    await home.worker("w-gpu", capabilities=["gpu"])
    await home.worker("w-net", capabilities=["net"])
    submitter = await home.client()
    await submitter.submit.aio(add("both", 1, 2, capabilities=("gpu", "net")))
    await submitter.submit.aio(add("one", 1, capabilities=("net",)))
    assert await submitter.value.aio("one", 20) == 1

    await home.distributor("e")
    await home.worker("w-all", "e", capabilities=["net", "gpu"])
    ended = await submitter.result.aio("both", 20)

    assert (ended.result, ended.assigned_to) == (3, "e/w-all")


async def test_what_waits_for_a_worker_that_is_gone_goes_to_a_distributor_that_has_one_like_it(
    home: House, client: Any
) -> None:
    await home.coordinator()
    await home.distributor("d")
    await home.worker("stays", "d", handlers=without(home.handlers, "wait"))
    leaves = await home.worker("leaves", "d")
    submitter = await home.client()
    ids = await submitter.submit_many.aio([wait(f"t{n}", n) for n in range(30)])
    await until_async(lambda: home.runs["t0"], "the first runs")

    async def handed_down() -> bool:
        return int(await client.hlen(CellKeys("d").wanted)) == len(ids)

    await until_async(handed_down, "the others wait at the distributor")
    await leaves.close.aio()
    for name in ids:
        home.door(name).set()
    await home.distributor("e")
    await home.worker("like-it", "e")

    ended = [await submitter.result.aio(name, 20) for name in ids]

    assert [task.result for task in ended] == list(range(30))
    assert {task.assigned_to for task in ended} == {"e/like-it"}
    assert await submitter.value.aio(await submitter.submit.aio(add("other", 1)), 20) == 1
    await until_async(lambda: is_empty(client, CellKeys("d").wanted), "nothing is wanted of the first any more")
