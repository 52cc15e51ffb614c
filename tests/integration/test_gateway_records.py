"""What gateways record of runs, when several ask at the same time or a record cannot be written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from msgspec.structs import replace
from redis import Redis

from core.config.variables import secret_text
from core.errors import ServerRefused
from core.gateway import run_requests
from core.gateway.hierarchy import Hierarchy
from core.gateway.run_life import begin_run, settle
from core.gateway.run_requests import RunBody
from tests.gateway_door import EMPTY, Door


@pytest.fixture
async def hierarchy(door: Door) -> AsyncIterator[Hierarchy]:
    """What a gateway stands on."""
    async with Hierarchy(door.tiers.redis, door.tiers.secrets, "coordinator-1", "gateway") as opened:
        yield opened


async def test_a_run_that_was_deleted_does_not_come_back_when_its_end_is_noted(hierarchy: Hierarchy) -> None:
    run = await begin_run(hierarchy, RunBody(assistant_id="steps", input=EMPTY), None)
    task = await hierarchy.over(run.task_id)
    await hierarchy.records.delete_run(run)
    await settle(hierarchy, run, task)
    assert await hierarchy.records.runs(run.thread_id) == []

    await hierarchy.records.put_runs(run)
    await settle(hierarchy, run, task)
    assert await hierarchy.records.runs(run.thread_id) == [replace(run, ended="success")]


async def test_a_run_that_was_answered_does_not_end_with_the_one_that_goes_on(hierarchy: Hierarchy) -> None:
    run = await begin_run(hierarchy, RunBody(assistant_id="steps", input=EMPTY), None)
    answered = replace(run, until="1-0/0")
    await hierarchy.records.put_runs(answered)

    assert await settle(hierarchy, run, await hierarchy.over(run.task_id)) == answered
    assert await hierarchy.records.runs(run.thread_id) == [answered]


async def test_a_run_that_cannot_be_recorded_does_not_go_on_unseen(
    hierarchy: Hierarchy, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = UUID(int=7)
    monkeypatch.setattr(run_requests, "uuid4", lambda: run_id)
    redis = Redis.from_url(secret_text(door.tiers.redis.url) or "", password=secret_text(door.tiers.redis.password))
    with redis:
        redis.set(hierarchy.gateway_keys.runs(str(run_id)), "what no run is written to")
    with pytest.raises(ServerRefused):
        await begin_run(hierarchy, RunBody(assistant_id="steps", input=EMPTY | {"hold": True}), None)
    assert (await hierarchy.over(str(run_id))).status == "cancelled"


async def test_of_answers_at_the_same_time_one_counts_also_if_its_run_ends_meanwhile(
    sdk: LangGraphClient, door: Door
) -> None:
    async with httpx.AsyncClient(base_url=door.urls[0], timeout=60) as client:
        for _ in range(3):
            thread = (await sdk.threads.create())["thread_id"]
            await sdk.runs.wait(thread, "asks", input=EMPTY)
            answer = {"assistant_id": "asks", "command": {"resume": "yes"}}
            calls = (client.post(f"/threads/{thread}/runs/wait", json=answer) for _ in range(8))
            answers = await asyncio.gather(*calls)
            assert sorted(each.status_code for each in answers) == [200, *[409] * 7]
