"""Who watches the leases of a run sees who took over from whom, and how long it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import redis.asyncio

from core.chaos.injector import SERVER, Fault, Kind, Target
from core.chaos.run_record import InjectedFault, RunRecord
from core.chaos.watch import Watch
from core.config.settings import RedisConfig
from core.langgraph_state import Lease
from core.operations.reader import reading
from core.roles import Role
from tests.waiting import until_async

AGENT = Target("distributor-1")
KILL = Fault(0.0, Kind.KILL, AGENT, 0.3)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lease(epoch: int, pid: int, commits: int = 0) -> str:
    return Lease(
        owner="distributor:distributor-1",
        process=f"machine/{pid}/1",
        incarnation=epoch,
        epoch=epoch,
        acquired_at=NOW,
        expires_at=NOW,
        commits=commits,
    ).model_dump_json()


def injected(fault: Fault, at_s: float) -> InjectedFault:
    return InjectedFault(fault, at_s, "first", 11, acting=True)


@pytest.fixture
async def watch(redis_config: RedisConfig) -> AsyncIterator[Watch]:
    lanes = {11: "first", 12: "second"}
    async with reading(redis_config) as reader:
        watching = Watch(reader, {"distributor-1": "lease"}, RunRecord(), time.monotonic, lanes.__getitem__, {})
        looking = asyncio.create_task(watching.look_on())
        yield watching
        looking.cancel()


async def seen(watch: Watch, epoch: int) -> None:
    await until_async(lambda: watch.epochs.get("distributor-1") == epoch, f"fence {epoch} is seen")


async def test_a_killed_holder_has_recovered_when_another_process_holds_a_higher_fence(
    watch: Watch, client: redis.asyncio.Redis
) -> None:
    await client.set("lease", lease(1, 11))
    await seen(watch, 1)
    assert (watch.acting, watch.takeovers) == ({"distributor-1": "first"}, {"distributor-1": 0})

    at_s = time.monotonic()
    watch.interrupted(injected(KILL, at_s), Role.DISTRIBUTOR)
    await client.set("lease", lease(1, 11, commits=1))  # what the dead one had still sent
    await client.set("lease", lease(2, 12))
    await seen(watch, 2)
    took_s = time.monotonic() - at_s

    watch.close()
    [recovery] = watch.record.recoveries
    assert 0 < recovery.took_s <= took_s
    assert watch.takeovers == {"distributor-1": 1}
    assert [(hold.lane, hold.epoch) for hold in watch.record.holds] == [("first", 1), ("second", 2)]


async def test_a_stopped_holder_has_recovered_when_it_renews_again_after_it_woke(
    watch: Watch, client: redis.asyncio.Redis
) -> None:
    await client.set("lease", lease(1, 11))
    await seen(watch, 1)
    stop = injected(Fault(0.0, Kind.STOP, AGENT, 0.3), time.monotonic())
    watch.interrupted(stop, Role.DISTRIBUTOR)
    stop.healed_s = time.monotonic()
    await client.set("lease", lease(1, 11, commits=1))
    await until_async(lambda: watch.record.recoveries, "it is back")
    assert watch.takeovers == {"distributor-1": 0}


@pytest.mark.parametrize("target", [AGENT, Target("distributor-1", standby=True), SERVER], ids=str)
async def test_a_recovery_that_another_fault_disturbs_is_not_counted(
    watch: Watch, client: redis.asyncio.Redis, target: Target
) -> None:
    await client.set("lease", lease(1, 11))
    await seen(watch, 1)
    watch.interrupted(injected(KILL, time.monotonic()), Role.DISTRIBUTOR)
    watch.disturbed(injected(Fault(0.1, Kind.KILL, target, 0.3), time.monotonic()))
    await client.set("lease", lease(2, 12))
    await seen(watch, 2)
    assert watch.record.recoveries == []
