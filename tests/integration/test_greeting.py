"""Who is not answered is not ready, and says why."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from core.config.settings import RedisConfig
from core.operations.checkup import check_overview
from core.operations.overview import read_overview
from core.operations.reader import reading
from tests.integration.hierarchy import FAST, House, house, signed_as
from tests.waiting import until_async


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as opened:
        yield opened


async def test_a_worker_with_another_secret_is_not_ready_and_both_ends_say_once_why_and_what_to_do(
    agents: House, redis_config: RedisConfig, caplog: pytest.LogCaptureFixture
) -> None:
    await agents.coordinator()
    await agents.distributor()
    good = await agents.worker("good")
    bad = await agents.worker("bad", a2a_config=signed_as("bad", token_secret="another secret than the others have"))

    def said(action: str) -> list[str]:
        return [record.getMessage() for record in caplog.records if getattr(record, "action", "") == action]

    await until_async(lambda: good.condition.ready and said("agent_unheard"), "one is heard, and the other told")
    ticks = bad.loop.report.ticks
    await until_async(lambda: bad.loop.report.ticks > ticks + 10, "it goes on for some heartbeats")

    assert not bad.condition.ready
    [reason] = bad.condition.reasons
    assert "distributor:d has not accepted its greeting" in reason
    assert "agents key worker bad --coordinator k --distributor d" in reason
    assert ["bad is not heard" in line for line in said("agent_unheard")] == [True]
    for action in ("message_rejected", "beat_rejected"):
        [line] = said(action)
        assert "worker:bad" in line
        assert "A2A_TOKEN_SECRET" in line
    async with reading(redis_config) as looking:
        overview = await read_overview(looking, "k", FAST)
    health = {agent.agent_id: agent.health for agent in overview.agents}
    assert health == {"k": "active", "d": "active", "good": "active", "bad": "unheard"}
    [found] = [finding for finding in check_overview(overview) if finding.check == "agents"]
    assert (found.state, "worker:bad is not heard by distributor:d" in found.what) == ("warn", True)


async def test_a_worker_that_comes_before_its_distributor_is_ready_once_that_is_there(agents: House) -> None:
    worker = await agents.worker()
    await until_async(lambda: worker.loop.report.ticks > 3, "it works for some heartbeats")
    assert worker.condition.status == "unready"

    await agents.distributor()

    await until_async(lambda: worker.condition.ready, "it is heard")
