"""Quotas, shares and explanations on a server: set by commands, obeyed by a coordinator and its successor, told."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from core.cli.app import app
from core.errors import NotPermitted
from core.tasks import Task
from tests.builders import SECRET
from tests.integration.hierarchy import FAST, house, runs
from tests.waiting import until_async

if TYPE_CHECKING:
    from core.config.settings import RedisConfig
    from tests.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _here(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {**redis_server.environment, "COORDINATOR_ID": "k", "A2A_TOKEN_SECRET": SECRET.decode()}
    for name, value in named.items():
        monkeypatch.setenv(name, value)


async def agents(*arguments: str) -> str:
    def call() -> str:
        ran = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    return await asyncio.to_thread(call)


async def told(*arguments: str) -> Any:
    return json.loads(await agents(*arguments, "--json"))


async def waits_for(task_id: str, reason: str) -> Any:
    """The explanation of a task, once it has that reason."""
    found: Any = None

    async def has_it() -> bool:
        nonlocal found
        found = await told("tasks", "explain", task_id)
        return bool(found["waits_for"] == reason)

    await until_async(has_it, f"{task_id} waits for {reason}")
    return found


def a_wait(task_id: str, tenant: str = "acme", **fields: Any) -> Task:
    return Task(task_id=task_id, **{"task_type": "wait", "tenant": tenant, **fields})


async def test_quotas_hold_over_a_new_coordinator_and_every_waiting_task_says_why(redis_config: RedisConfig) -> None:
    async with house(redis_config) as home:
        coordinator = await home.coordinator()
        await home.distributor()
        await home.worker(config=FAST.model_copy(update={"concurrency": 3}))
        client = await home.client()
        with pytest.raises(NotPermitted):
            await client.set_quota.aio("tenant:acme", at_once=1)
        await agents("quotas", "set", "tenant:acme", "--at-once", "1", "--weight", "3")

        await client.submit_many.aio([a_wait("a1"), a_wait("a2"), a_wait("b1", "others"), a_wait("no", task_type="no")])
        await runs(home, "a1")
        await runs(home, "b1")
        held = await waits_for("a2", "quota")
        assert held["numbers"] == {"quota": "tenant:acme", "in_flight": 1, "at_once": 1}
        assert "tenant:acme has 1 task(s) in flight" in await agents("tasks", "explain", "a2")
        assert (await waits_for("a1", "running"))["numbers"]["worker"] == "w"
        assert (await waits_for("no", "nobody_has"))["stuck"]

        async def counted() -> bool:
            expected = {"nobody_has": 1, "quota": 1, "running": 2}
            return bool((await told("status"))["waiting"] == expected)

        await until_async(counted, "the reasons are counted")
        assert "1 quota" in await agents("status")

        await coordinator.close.aio()
        await home.coordinator()
        await waits_for("a2", "quota")
        [quota] = await told("quotas", "list")
        assert (quota["name"], quota["weight"], quota["at_once"]) == ("tenant:acme", 3, 1)
        await agents("quotas", "remove", "tenant:acme")
        await runs(home, "a2")
        assert await told("quotas", "list") == []
        for name in ("a1", "a2", "b1"):
            home.door(name).set()
        await client.result.aio("a2", 10)
        assert (await told("tasks", "explain", "a2"))["waits_for"] == "nothing"
