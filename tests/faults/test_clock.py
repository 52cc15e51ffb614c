"""Clocks that are wrong, or are set while everybody works: those of agents, which nobody asks, and the server's."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis.asyncio

from core.config.settings import AgentConfig, RedisConfig
from core.redis_backend.keys import CellKeys, CoordinatorKeys, RegistryKeys
from core.runtime.agent import Agent
from core.schedules import Schedule
from core.tasks import Task, utc_now
from tests.builders import SECRET
from tests.faults.keyspace import rejections
from tests.integration.hierarchy import House, add, house, runs, wait
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import Tiers
from tests.waiting import until_async

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands

#: The profile of the matrix.
LEASE_S = 2.0
PROFILE = AgentConfig(heartbeat_s=0.2, failure_timeout_s=LEASE_S, lease_s=LEASE_S)
#: Nobody counts as gone because a busy machine makes it slow.
PATIENT = {"AGENT_LEASE_S": "6", "AGENT_FAILURE_TIMEOUT_S": "10"}
KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
HOUR_S = 3600


def _libfaketime() -> Path:
    """The library by which a process is shown another time. Skips where there is none; fails in CI."""
    found = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
    if found is None:
        cure = "there is no libfaketime (Debian, Ubuntu: apt install faketime)"
        if os.environ.get("CI"):
            pytest.fail(cure)
        pytest.skip(cure)
    return found


class FakeClock:
    """A wall clock that can be set, for processes with its `environment`; their monotonic clock is the real one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(_libfaketime()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds until it is noticed that the clock was set
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """So many seconds ahead of the real one, from now on; negative: behind it."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{ahead_s:+d}\n")
        fresh.replace(self._file)


@pytest.fixture
def server_clock(tmp_path: Path) -> FakeClock:
    return FakeClock(tmp_path / "clock")


@pytest.fixture
def valkey(server_clock: FakeClock, tmp_path: Path) -> Iterator[RedisServer]:
    """A bundled server that lives by `server_clock`. (Debian's Redis does not start under the library.)"""
    program = tmp_path / "valkey-server"
    settings = " ".join(f"{name}='{value}'" for name, value in server_clock.environment.items())
    program.write_text(f'#!/bin/sh\nexec env {settings} {bundled_server()} "$@"\n')
    program.chmod(0o700)
    with RedisServer(program) as server:
        yield server


@pytest.fixture
async def its_client(valkey: RedisServer) -> AsyncIterator[Redis]:
    async with redis.asyncio.Redis(unix_socket_path=str(valkey.socket), password=valkey.password) as opened:
        yield opened


@pytest.fixture
async def agents(valkey: RedisServer) -> AsyncIterator[House]:
    config = RedisConfig(url=valkey.url, password=valkey.password, mode="external")
    async with house(config) as opened:
        yield opened


# ---- the agents' ----

HANDLER = """
from worker import task

@task("plus_one")
async def plus_one(payload: int) -> int:
    return payload + 1
"""


@pytest.mark.matrix(38)
async def test_a_step_of_an_agents_wall_clock_is_noticed_by_nobody(
    valkey: RedisServer, its_client: Redis, agents: House, tmp_path: Path
) -> None:
    """Three processes, ten minutes ahead, ten minutes behind, and right; each is set by an hour while tasks run."""
    clocks = {name: FakeClock(tmp_path / f"clock-{name}") for name in ("k", "d", "w")}
    clocks["k"].set(600)
    clocks["d"].set(-600)
    (tmp_path / "adding.py").write_text(HANDLER)
    flags = {
        "k": ("coordinator",), "d": ("distributor", "--coordinator", "k"),
        "w": ("worker", "--coordinator", "k", "--distributor", "d", "--import", "./adding.py"),
    }  # fmt: skip
    with ExitStack() as stack:
        tiers = {}
        for name, (role, *options) in flags.items():
            # Without the cache, a new clock is noticed whenever it is next looked at. (A server does not bear that.)
            environment = {**clocks[name].environment, "FAKETIME_NO_CACHE": "1", **PATIENT}
            environment["A2A_TOKEN_SECRET"] = SECRET.decode()
            tiers[name] = stack.enter_context(Tiers(agents.redis, tmp_path, **environment))
            tiers[name].start(role, name, *options)
        submitter = await agents.client("c")

        async def results(first: int) -> list[Any]:
            deadline = utc_now() + timedelta(minutes=5)
            batch = [
                Task(task_type="plus_one", payload=number, deadline=deadline) for number in range(first, first + 50)
            ]
            ids = await submitter.submit_many.aio(batch)
            return sorted([task.result async for task in submitter.as_completed(ids, 60)])

        assert await results(0) == list(range(1, 51))
        fences = await all_fences(its_client)
        for name, ahead_s in (("k", 600), ("d", -600), ("w", 0)):
            told = int(await its_client.hget(RegistryKeys("k").record(name), "clock_ahead_ms"))
            assert abs(told / 1000 - ahead_s) < 5, "each has told the registry how far off it is"
        for round_number, step_s in enumerate((HOUR_S, -HOUR_S), 1):
            for clock in clocks.values():
                clock.set(step_s)
            await renewed(its_client)  # by then every process has looked at its clock again
            assert await results(50 * round_number) == list(range(50 * round_number + 1, 50 * round_number + 51))

        assert await all_fences(its_client) == fences
        assert await rejections(its_client) == []
        assert all(tiers[name].runs(name) for name in tiers)
        assert not [name for name in tiers if "rejected" in tiers[name].log(name)]
        # They did live by clocks of their own, and those were set.
        assert 1100 < started_at(tiers["k"].log("k")) - started_at(tiers["d"].log("d")) < 1300
        for name, tier in tiers.items():
            tier.terminate(name)
            assert tier.exit_code(name) == 0
            assert -HOUR_S - 60 < times(tier.log(name))[-1] - time.time() < -HOUR_S + 60


def started_at(log: str) -> float:
    """When an agent says that it started."""
    return times("\n".join(line for line in log.splitlines() if '"agent_started"' in line))[0]


def times(log: str) -> list[float]:
    """Of each line, as the agent had it."""
    lines = [orjson.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [datetime.fromisoformat(line["time"]).timestamp() for line in lines]


async def all_fences(client: Redis) -> dict[str, int]:
    return {key.decode(): int(await client.get(key)) for key in sorted(await client.keys("*:fence"))}


async def renewed(client: Redis) -> None:
    """Returns when every lease has been renewed from now on, and none lives longer than a lease may."""
    keys = await client.keys("*:lease")
    before = {key: await client.get(key) for key in keys}

    async def done() -> bool:
        return all([await client.get(key) not in (None, before[key]) for key in keys])

    await until_async(done, "every lease is renewed")


# ---- the server's ----


async def noticed(client: Redis, ahead_s: int) -> None:
    """Returns when the server lives by its new clock."""

    async def done() -> bool:
        return bool(abs((await client.time())[0] - time.time() - ahead_s) < 5)

    await until_async(done, "the server's clock is set")


@pytest.mark.matrix(39)
@pytest.mark.parametrize("step_s", [60, -120])
async def test_a_step_of_the_servers_clock_runs_nothing_twice_and_rejects_no_message(
    agents: House, its_client: Redis, server_clock: FakeClock, step_s: int
) -> None:
    for start in (agents.coordinator, agents.distributor):
        await start(config=PROFILE)
    for name in ("w1", "w2"):
        await agents.worker(name, config=PROFILE)
    submitter = await agents.client("c")
    held = [wait(f"held-{number}", number) for number in range(4)]
    ids = await submitter.submit_many.aio([*held, *(add(f"before-{number}", number, 1) for number in range(100))])
    await runs(agents, "held-3")

    server_clock.set(step_s)
    await noticed(its_client, step_s)
    began_s = time.monotonic()
    ids += await submitter.submit_many.aio([add(f"after-{number}", number, 1) for number in range(100)])
    for task in held:
        agents.door(task.task_id).set()
    ended = {task.task_id: task async for task in submitter.as_completed(ids, 30)}
    took_s = time.monotonic() - began_s
    await renewed(its_client)

    assert {task.status for task in ended.values()} == {"completed"}
    assert set(ended) == set(ids)
    assert max(agents.runs.values()) == 1
    assert took_s < 2 * LEASE_S
    for key in await its_client.keys("*:lease"):
        assert 0 < await its_client.pttl(key) <= LEASE_S * 1000
    assert await rejections(its_client) == []


@pytest.mark.matrix(39)
@pytest.mark.parametrize("who", ["k", "d"])
async def test_a_lease_that_the_servers_clock_has_prolonged_is_taken_over_after_its_own_time(
    agents: House, its_client: Redis, server_clock: FakeClock, who: str
) -> None:
    """Set back by two minutes, the server would keep the lease of a dead agent for as long."""
    lease_s = 6.0  # still there when the server notices its new clock
    config = PROFILE.model_copy(update={"lease_s": lease_s, "failure_timeout_s": lease_s})
    roles: dict[str, Agent] = {
        "k": await agents.coordinator(config=config),
        "d": await agents.distributor(config=config),
    }
    await agents.worker(config=config)
    submitter = await agents.client("c")
    ids = await submitter.submit_many.aio([add(f"t{number}", number, 1) for number in range(50)])

    await dies(roles[who])  # first: it would renew its lease by the new clock
    server_clock.set(-120)
    await noticed(its_client, -120)
    lease = KEYS.agent.lease if who == "k" else CELL.lease
    assert await its_client.pttl(lease) > 100_000
    began_s = time.monotonic()
    await (agents.coordinator(config=config) if who == "k" else agents.distributor(config=config))
    ids += await submitter.submit_many.aio([add(f"u{number}", number, 1) for number in range(50)])
    ended = [task.status async for task in submitter.as_completed(ids, 30)]

    assert time.monotonic() - began_s < lease_s + LEASE_S + 1  # one for a busy machine
    assert ended == ["completed"] * 100
    assert max(agents.runs.values()) == 1
    assert await rejections(its_client) == []


async def dies(agent: Agent) -> None:
    """Ends it at once, as a process of another machine would: it gives nothing back, and nobody can tell."""
    assert agent._running
    agent._running.cancel()
    await asyncio.gather(agent._running, return_exceptions=True)
    await agent.loop.close()
    agent._loop = None


@pytest.mark.matrix(39)
async def test_a_clock_that_is_set_back_by_more_than_the_freshness_window_leaves_nobody_deaf(
    agents: House, its_client: Redis, server_clock: FakeClock
) -> None:
    """The ids of a stream go on from the newest one, two hours in the future."""
    await agents.coordinator(config=PROFILE)
    await agents.distributor(config=PROFILE)
    await agents.worker(config=PROFILE)
    submitter = await agents.client("c")
    assert await submitter.value.aio(await submitter.submit.aio(add("before", 1, 2)), 20) == 3

    server_clock.set(-2 * HOUR_S)
    await noticed(its_client, -2 * HOUR_S)
    await renewed(its_client)

    assert await submitter.value.aio(await submitter.submit.aio(add("after", 1, 2)), 30) == 3
    assert agents.runs == {"before": 1, "after": 1}


@pytest.mark.matrix(39)
async def test_a_step_of_the_servers_clock_loses_no_firing_of_a_schedule_and_repeats_none(
    agents: House, its_client: Redis, server_clock: FakeClock, tmp_path: Path
) -> None:
    """A minute ahead, and what was missed is made up for; back by two, and nothing is opened again."""
    environment = {**PATIENT, "A2A_TOKEN_SECRET": SECRET.decode()}

    async def opened() -> list[str]:
        return sorted(name.decode() for name in await its_client.hkeys(KEYS.tasks) if name.startswith(b"tick@"))

    with Tiers(agents.redis, tmp_path, **environment) as tiers:
        tiers.start("coordinator", "k")
        client = await agents.client("c")
        await client.schedules.set.aio(Schedule(name="tick", every_s=1, missed="all", task={"task_type": "noop"}))

        async def fires(more: int) -> None:
            before = len(await opened())

            async def done() -> bool:
                return len(await opened()) >= before + more

            await until_async(done, f"it fires {more} times more", 30)

        await fires(2)
        server_clock.set(60)
        await noticed(its_client, 60)
        await fires(55)

        server_clock.set(-60)
        await noticed(its_client, -60)
        await renewed(its_client)
        before = await opened()
        await client.schedules.pause.aio("tick")  # the coordinator has read this by its new clock
        await client.schedules.resume.aio("tick")
        assert await opened() == before

        server_clock.set(70)
        await noticed(its_client, 70)
        await fires(2)
        await client.schedules.pause.aio("tick")
        schedule = await client.schedules.get.aio("tick")
        assert tiers.runs("k")
    found = await opened()
    assert schedule.opened == len(found), "none was opened under an id that was there"
    assert {*before} < {*found}
    assert await rejections(its_client) == []
