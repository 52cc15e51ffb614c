"""When what runs stream is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import redis.asyncio

from core.config.settings import RedisConfig
from core.redis_client import Wire
from core.run_keys import AttemptKey
from core.run_stream import chunks_of
from tests.builders import a_task
from tests.waiting import until_async
from worker.hosts import chunk_writer
from worker.hosts.chunk_writer import ChunkWriter

# What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")


@pytest.fixture
async def writer(redis_config: RedisConfig) -> AsyncIterator[ChunkWriter]:
    key = AttemptKey("0a1b2c3d", bytes(32))
    made = ChunkWriter(lambda: Wire(redis_config), lambda task_id: task_id, lambda task: key, lambda: 7)
    yield made
    await made.close()


async def written(client: redis.asyncio.Redis) -> list[list[int]]:
    """The data of the chunks in each entry of the stream `t`."""
    entries: Any = await client.xrange("t")
    return [[chunk.data for chunk in chunks_of(entry_id, fields)] for entry_id, fields in entries]


async def test_the_first_chunk_is_written_at_once_and_those_after_it_together(
    writer: ChunkWriter, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_writer, "GATHER_S", 3600.0)
    add = writer.stream_of(a_task("t", attempt=1))
    add(b'["custom",[],1]')
    await until_async(partial(written, client), "the first is there")
    add(b'["custom",[],2]')
    add(b'["custom",[],3]')
    await writer.flush()

    assert await written(client) == [[1], [2, 3]]


async def test_what_comes_faster_than_it_is_stored_takes_no_memory(
    writer: ChunkWriter, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chunk_writer, "HELD_BYTES", 40)
    add = writer.stream_of(a_task("t", attempt=1))
    for number in range(5):
        add(b'["custom",[],%d]' % number)
    await writer.flush()
    add(b'["custom",[],5]')
    await writer.flush()

    assert await written(client) == [[0, 1], [5]]
    assert [record.action for record in caplog.records if hasattr(record, "action")] == ["chunks_lost"]


async def test_a_run_that_tells_much_does_not_fill_the_server(
    writer: ChunkWriter, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_writer, "MAX_BYTES", 20_000)
    much, little = (writer.stream_of(a_task(name, attempt=1)) for name in ("much", "little"))
    for _ in range(20):
        much(b'["custom",[],"%b"]' % (b"x" * 5_000))
        little(b'["custom",[],1]')
        await writer.flush()

    assert 2 <= await client.xlen("much") <= 5
    assert await client.xlen("little") == 20
