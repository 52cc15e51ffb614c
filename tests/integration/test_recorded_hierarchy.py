"""A hierarchy that is recorded while it works: its files tell all of it, and no secret."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from core.recording.comparison import compared, files_of
from core.recording.reader import RecordedLife
from core.tier_graph import Before
from tests.builders import SECRET
from tests.integration.hierarchy import FAST, add, house, runs, wait
from tests.replay.story import crash, ended, flaky

if TYPE_CHECKING:
    from core.config.settings import RedisConfig


async def test_a_recorded_hierarchy_decides_the_same_again(redis_config: RedisConfig, tmp_path: Path) -> None:
    """Over retries, a drain that has to hand back, and a coordinator that dies with open tasks."""
    config = FAST.model_copy(update={"record": tmp_path})
    async with house(redis_config) as home:
        coordinator = await home.coordinator(config=config)
        distributor = await home.distributor(config=config)
        await home.worker("w", config=config)
        me = await home.client("me~1")
        await me.submit_many.aio([add("sum", 1, 2), flaky("flaky", 1), flaky("dies", 9, max_attempts=1)])
        await me.submit.aio(wait("waits", "what was secret"))
        await ended(me, "sum", "flaky", "dies")
        await runs(home, "waits")
        await crash(coordinator)
        await home.coordinator(config=config)
        home.door("waits").set()
        await ended(me, "waits")
        await distributor.drain(timeout_s=5)

    reports = [await asyncio.to_thread(compared, path) for path in files_of(tmp_path)]
    assert [report for report in reports if report.difference or report.problem or report.torn] == []
    names = ["coordinator-k.life-1", "coordinator-k.life-2", "distributor-d.life-1", "worker-w.life-1"]
    assert [report.file for report in reports] == [f"{name}.txt" for name in names]
    assert all(report.batches > 3 for report in reports)
    text = "".join(path.read_text() for path in files_of(tmp_path))
    assert "what was secret" in text  # a payload, which is why only the owner can read it
    for secret in (SECRET.decode(), str(redis_config.password)):
        assert secret not in text


async def test_a_successor_is_recorded_with_what_it_found(redis_config: RedisConfig, tmp_path: Path) -> None:
    config = FAST.model_copy(update={"record": tmp_path})
    async with house(redis_config) as home:
        first = await home.coordinator(config=config)
        me = await home.client("me~1")
        await me.submit_many.aio([add("later", 1, delay_s=60), wait("alone")])
        await crash(first)
        await home.coordinator(config=config)

    _, second = map(RecordedLife.opened, files_of(tmp_path))
    assert sorted(second.beginning.indexes["{coordinator:k}:open"]) == ["alone", "later"]
    found = second.beginning.hashes["{coordinator:k}:tasks"]
    assert {name: record.seal for name, record in found.items()} == {"later": "task", "alone": "task"}


async def test_nodes_of_a_program_are_named(redis_config: RedisConfig, tmp_path: Path) -> None:
    def route(state: object, runtime: object) -> None: ...

    config = FAST.model_copy(update={"record": tmp_path})
    async with house(redis_config) as home:
        await home.coordinator(config=config, nodes=[Before("receive", route)])

    [life] = files_of(tmp_path)
    assert "nodes of its program (route)" in compared(life).problem
