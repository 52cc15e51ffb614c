"""Runs of one thread over a real server, with functions that end when the test lets them."""

from __future__ import annotations

import pytest

from core.agent_run import RunOptions
from core.errors import TaskRefused
from core.redis_backend.keys import CoordinatorKeys
from core.tasks import Task
from tests.integration.hierarchy import House, runs, status, wait
from tests.integration.speaker import Redis
from tests.waiting import until_async

KEYS = CoordinatorKeys("k")


def turn(task_id: str, **options: str) -> Task:
    return wait(task_id, task_id, run=RunOptions(thread_id="talk", **options))  # type: ignore[arg-type]


async def test_turns_of_a_talk_wait_for_each_other_over_a_restart_and_are_replaced(
    agents: House, client: Redis
) -> None:
    before = await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    me = await agents.client()
    await me.submit_many.aio([turn("one"), turn("two"), turn("three")])
    await runs(agents, "one")

    await before.close.aio()
    after = await agents.coordinator()
    with pytest.raises(TaskRefused, match="thread 'talk' is busy with 'one'"):
        await me.submit.aio(turn("no", multitask="reject"))
    agents.door("one").set()
    assert await me.value.aio("one", 20) == "one"
    await runs(agents, "two")
    assert agents.runs["three"] == 0

    await me.submit.aio(turn("four", multitask="rollback"))
    assert [(await me.result.aio(name, 20)).status for name in ("two", "three")] == ["cancelled", "cancelled"]
    agents.door("four").set()
    assert await me.value.aio("four", 20) == "four"
    record = Task.from_json(await client.hget(KEYS.tasks, "four"))
    assert record.undoes == ("two", "three")
    assert record.thread_order == int(await client.hget(KEYS.header, "thread_order"))
    assert await status(client, "one") == "completed"
    await until_async(lambda: not after.state.threads, "nobody has the thread")
