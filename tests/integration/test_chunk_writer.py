"""When what runs stream is written."""

from __future__ import annotations

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


async def test_the_first_chunk_is_written_at_once_and_those_after_it_together(
    redis_config: RedisConfig, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_writer, "GATHER_S", 3600.0)
    key = AttemptKey("0a1b2c3d", bytes(32))
    writer = ChunkWriter(lambda: Wire(redis_config), lambda task_id: task_id, lambda task: key, lambda: 7)
    add = writer.stream_of(a_task("t", attempt=1))

    async def written() -> list[list[int]]:
        """The data of the chunks in each entry."""
        entries: Any = await client.xrange("t")
        return [[chunk.data for chunk in chunks_of(entry_id, fields)] for entry_id, fields in entries]

    add(b'["custom",[],1]')
    await until_async(written, "the first is there")
    add(b'["custom",[],2]')
    add(b'["custom",[],3]')
    await writer.flush()

    assert await written() == [[1], [2, 3]]
    await writer.close()
