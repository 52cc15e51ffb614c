"""Somebody who can write to Redis appends to the stream of a run that others follow, and reads all that lies there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from core.agent_run import RunOptions
from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.errors import UnknownTask
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address, Role, asker_of
from core.signing import KeyRing
from core.tasks import Task
from tests.executor_bench import INTEGRATION
from tests.faults.keyspace import everything
from tests.integration.speaker import Redis
from tests.tiers import SECRET, ForkedTiers
from tests.waiting import until_async

#: What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")

K, KEYS = Address(Role.COORDINATOR, "coordinator-1"), CoordinatorKeys("coordinator-1")
AGENTS = str(INTEGRATION / "resuming_user_graphs.py")


@pytest.fixture
def tiers(processes: Processes, redis_config: RedisConfig, tmp_path: Path) -> Any:
    with ForkedTiers(processes, redis_config, tmp_path, USER_CODE_FOLDER=str(tmp_path)) as tiers:
        tiers.start("coordinator", "coordinator-1")
        tiers.start("distributor", "distributor-1")
        tiers.start("worker", "w1", "--import", AGENTS)
        yield tiers


@pytest.fixture
async def clients(tiers: ForkedTiers) -> AsyncIterator[dict[str, AgentClient]]:
    """By name. All but `root` have their own key and nothing else."""
    async with AsyncExitStack() as stack:

        async def opened(name: str, **secrets: str | None) -> AgentClient:
            config = A2AConfig.model_validate({"agent_id": "x", **secrets})
            return await stack.enter_async_context(AgentClient(tiers.redis, config, K.agent_id, name))

        own = {
            name: KeyRing.from_secret(SECRET.encode(), (K, asker_of(name))).export()
            for name in ("owner", "friend", "stranger", "operator:o")
        }
        found = {name: await opened(name, agent_key=key) for name, key in own.items()}
        yield {**found, "root": await opened("operator:root", token_secret=SECRET)}


class Following:
    """What a client is told of a run while it follows it."""

    def __init__(self, client: AgentClient, task_id: str, after: str | None = None) -> None:
        self.told: list[Any] = []
        self.ids: list[str] = []
        self.all = asyncio.create_task(self._follow(client.stream(task_id, after=after)))

    async def _follow(self, stream: Any) -> list[Any]:
        async for chunk in stream:
            [said] = chunk.data.values() if chunk.mode == "lifecycle" else chunk.data
            self.told.append(said)
            self.ids.append(chunk.id)
        return self.told


@pytest.mark.timeout(120)
async def test_followers_are_told_what_workers_have_signed_and_once_whatever_else_is_appended(
    clients: dict[str, AgentClient], tiers: ForkedTiers, client: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    run, readers = RunOptions(stream=["updates"]), [name for name in clients if name != "stranger"]
    tasks = [
        Task(task_id=task_id, task_type="five", payload={"done": []}, run=run, shared_with=["friend"])
        for task_id in "tu"
    ]
    await clients["owner"].submit_many.aio(tasks)
    following = {name: Following(clients[name], "t") for name in readers}
    await until_async(lambda: all(each.told == ["one", "two"] for each in following.values()), "all follow")
    await until_async(lambda: client.xlen(KEYS.run_stream("u")), "the other one tells as well")

    # What lies there, in the hands of the agents, gives no key away.
    lying = repr(await everything(client))
    [run_key] = KeyRing.from_secret(SECRET.encode(), (K,)).run_keys("t", asker_of("owner"))
    for key in (run_key, run_key.of_attempt(1)):
        assert repr(key.secret)[2:-1] not in lying
        assert key.secret.hex() not in lying
    assert '"run_key":' in lying

    stream, other = KEYS.run_stream("t"), KEYS.run_stream("u")
    [(_, first), *_] = await client.xrange(stream)
    [(_, of_other), *_] = await client.xrange(other)
    forged = b'[["updates",[],{"forged":{}}]]'
    for fields in (
        first, of_other, {**first, b"chunks": forged}, {**first, b"number": b"9" * 15}, {**first, b"attempt": b"2"},
        {b"attempt": b"1", b"chunks": forged}, {b"attempt": b"9", b"chunks": b"]"}, {b"x": b"\xff"},
    ):  # fmt: skip
        await client.xadd(stream, fields)
    for _ in range(70):  # more than are read at once
        await client.xadd(stream, {**of_other, b"chunks": forged})
    # Its next attempt comes from a distributor that knows it only by its own record.
    for name in ("distributor-1", "w1"):
        tiers.kill(name)
    tiers.start("distributor", "distributor-1")
    tiers.start("worker", "w2", "--import", AGENTS)
    (tmp_path / "go").touch()

    whole = ["one", "two", 2, "three", "four", "five", "completed"]
    assert [await each.all for each in following.values()] == [whole] * len(readers)
    for name in readers:
        assert await Following(clients[name], "t").all == whole
        assert await Following(clients[name], "t", following[name].ids[1]).all == whole[2:]
    with pytest.raises(UnknownTask):
        await Following(clients["stranger"], "t").all
    warned = [each for each in caplog.records if getattr(each, "action", "") == "chunks_passed_over"]
    assert len(warned) == 3 * len(readers)  # one line each time that it is followed

    # Who has the root needs no coordinator.
    tiers.kill("coordinator-1")
    assert await Following(clients["root"], "t").all == whole
