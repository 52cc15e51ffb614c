"""A coordinator that answers every request, and always later than its client sends it again."""

from __future__ import annotations

import pytest

from core.chaos.proxy import Proxy
from core.client import requests
from core.config.settings import AgentConfig, RedisConfig
from core.errors import TaskRefused, TaskTimeout, UnknownSchedule
from core.schedules import Schedule
from core.tasks import Task
from tests.integration.hierarchy import House, house
from tests.redis_server import RedisServer


async def test_an_answer_to_the_copy_before_the_last_counts(
    agents: House, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "REJECTED_S", 0.05)
    monkeypatch.setattr(requests, "ANSWER_S", 0.1)
    with Proxy(redis_server.socket) as link:
        through = RedisConfig(url=link.url, password=redis_server.password, mode="external")
        async with house(through) as far:
            await far.coordinator(config=AgentConfig(lease_s=30, max_open_tasks=100))
            me = await agents.client()
            link.delay(to_server_s=0.2, to_client_s=0.2)

            ids = [f"t{number}" for number in range(90)]
            tasks = [Task(task_id=task_id, task_type="add", payload=[1]) for task_id in ids]
            assert await me.submit_many.aio(tasks, 20) == ids
            await me.cancel.aio(ids[0], 20)

            await me.schedules.set.aio(Schedule(name="daily", every_s=86_400, task={"task_type": "add"}), 20)
            with pytest.raises(TaskTimeout):
                await me.schedules.remove.aio("daily", 0.1)

            # What is refused is told all the same, although the coordinator stays as slow as it is.
            with pytest.raises(TaskRefused):
                await me.submit_many.aio([Task(task_id=f"u{number}", task_type="add") for number in range(20)], 20)

            # Whoever gave up waiting for the answer to a removal asks again, and is told that it is done.
            await me.schedules.remove.aio("daily", 20)
            with pytest.raises(UnknownSchedule):
                await me.schedules.remove.aio("daily", 20)
