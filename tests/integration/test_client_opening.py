"""A client that nobody has opened opens itself, for however many use it first."""

from __future__ import annotations

import asyncio

from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, RedisConfig
from tests.tiers import SECRET


async def test_a_client_that_several_use_first_at_once_is_opened_once(redis_config: RedisConfig) -> None:
    """Two openings would be two senders under one name, of which the coordinator hears only the later one."""
    client = AgentClient(redis_config, A2ASecrets(token_secret=SECRET), "c", client_id="x~1")

    await asyncio.gather(*(client.open.aio() for _ in range(8)))
    readers = [task for task in asyncio.all_tasks() if task.get_name() == "client:x~1"]
    await client.close.aio()

    assert len(readers) == 1
