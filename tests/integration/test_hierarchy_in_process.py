"""All three tiers and a client in one event loop, over a real server: what becomes of tasks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coordinator import task_life
from core.client import agent_client
from core.errors import BadTask, TaskFailed, TaskRefused, TaskTimeout, UnknownTask
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address, Role
from core.tasks import Priority, Task
from tests.integration.hierarchy import FAST, House, add, is_empty, runs, spawn, status, wait
from tests.integration.speaker import Redis
from tests.waiting import until_async

KEYS = CoordinatorKeys("k")


# ---- submitting ----


async def test_a_submitted_task_is_run_and_its_result_comes_back(full: House) -> None:
    me = await full.client()

    task = await me.result.aio(await me.submit.aio(add("t", 1, 2, 3)))

    assert (task.status, task.result, task.retry_count) == ("completed", 6, 1)
    assert task.assigned_to in {"d/w1", "d/w2"}
    assert task.started_at
    assert task.completed_at
    assert task.created_at <= task.started_at <= task.completed_at


async def test_many_tasks_come_back_each_once_as_they_end(full: House) -> None:
    me = await full.client()
    ids = await me.submit_many.aio([add(f"t{n}", n, n) for n in range(300)])

    results = [(task.task_id, task.result) async for task in me.as_completed(ids, timeout_s=20)]

    assert sorted(results) == sorted((f"t{n}", 2 * n) for n in range(300))
    assert set(full.runs.values()) == {1}


async def test_replies_that_were_read_are_deleted_when_there_are_many_or_no_more_come(
    full: House, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_client, "BLOCK_MS", 20)
    me = await full.client("c~1")
    for n in range(3):
        assert await me.value.aio(await me.submit.aio(add(f"t{n}", n)), timeout_s=20) == n

    async def is_trimmed() -> bool:
        return int(await client.xlen(KEYS.replies(Address(Role.CLIENT, "c~1")))) == 1  # the last that it has read

    await until_async(is_trimmed, "no more replies come, and those that were read are deleted")
    monkeypatch.setattr(agent_client, "BLOCK_MS", 60_000)
    monkeypatch.setattr(agent_client, "TRIMMED_BYTES", 100)
    assert await me.value.aio(await me.submit.aio(add("many", 7)), timeout_s=20) == 7

    await until_async(is_trimmed, "more bytes were read than are kept")


async def test_submitting_nothing_gives_nothing(full: House) -> None:
    me = await full.client()

    assert await me.submit_many.aio([]) == []
    assert [task async for task in me.as_completed([])] == []


async def test_agents_may_start_in_any_order(agents: House) -> None:
    await agents.worker()
    await agents.distributor()
    me = await agents.client()
    submitting = asyncio.create_task(me.submit.aio(add("t", 1, 2)))
    await agents.coordinator()

    assert await me.value.aio(await submitting, timeout_s=10) == 3


async def test_a_task_submitted_twice_is_one_task_whichever_client_submits_it(full: House) -> None:
    one, other = await full.client(), await full.client()
    await one.submit.aio(add("t", 1))
    first = await one.result.aio("t")

    await other.submit.aio(add("t", 1))

    assert await other.result.aio("t", timeout_s=5) == first
    assert full.runs["t"] == 1


async def test_an_id_that_is_in_use_for_another_task_is_refused(full: House) -> None:
    me = await full.client()
    await me.submit.aio(add("t", 1))

    with pytest.raises(TaskRefused, match="in use for another task"):
        await me.submit.aio(add("t", 2))
    assert (await me.result.aio("t")).result == 1


async def test_a_refused_task_does_not_take_the_others_along(full: House) -> None:
    me = await full.client()
    await me.submit.aio(add("taken", 1))

    with pytest.raises(TaskRefused, match="in use"):
        await me.submit_many.aio([add("good", 1), add("taken", 2)])

    assert await me.value.aio("good", timeout_s=5) == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"payload": "x" * 300_000}, "limit of 262144"),
        ({"payload": {1, 2}}, "not JSON"),
        ({"metadata": {"note": "x" * 3_000_000}}, "metadata"),
    ],
    ids=["payload too large", "payload no JSON", "metadata too large"],
)
def test_of_what_cannot_travel_no_task_is_made(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadTask, match=problem):
        Task(task_type="add", **fields)


async def test_results_are_kept_for_whoever_asks_later(full: House, client: Redis) -> None:
    first = await full.client()
    await first.submit.aio(add("t", 1, 2))
    await first.result.aio("t")
    await first.close.aio()

    assert await (await full.client()).value.aio("t", timeout_s=5) == 3
    assert await status(client, "t") == "completed"
    assert await client.zcard(KEYS.open) == 0


async def test_results_are_forgotten_after_their_retention(
    agents: House, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_life, "SWEEP_EVERY_MS", 300)
    await agents.coordinator(config=FAST.model_copy(update={"retention_s": 1}))
    await agents.distributor()
    await agents.worker()
    me = await agents.client()
    ids = await me.submit_many.aio([add(f"t{n}", n) for n in range(700)])
    assert len([task async for task in me.as_completed(ids)]) == 700

    await until_async(lambda: is_empty(client, KEYS.tasks), "all records are gone", timeout_s=30)

    assert not await client.exists(KEYS.ended)
    with pytest.raises(UnknownTask):
        await me.result.aio("t0")


async def test_an_id_nobody_knows_is_an_error_and_not_a_wait(full: House) -> None:
    me = await full.client()

    with pytest.raises(UnknownTask, match="nobody"):
        await me.result.aio("nobody")
    with pytest.raises(UnknownTask, match="nobody"):
        await me.cancel.aio("nobody")


async def test_each_of_several_who_wait_for_an_id_that_nobody_knows_is_told(full: House) -> None:
    me = await full.client()

    told = await asyncio.gather(*(me.result.aio("nobody") for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in told] == [UnknownTask] * 3


async def test_who_waits_for_a_task_is_told_its_end_though_somebody_else_may_not_have_its_id(full: House) -> None:
    me = await full.client()
    await me.submit.aio(wait("t", "mine"))
    waiting = asyncio.create_task(me.result.aio("t", timeout_s=10))
    await runs(full, "t")

    with pytest.raises(TaskRefused, match="another task"):
        await me.submit.aio(wait("t", "another's"))
    full.door("t").set()

    assert (await waiting).result == "mine"


async def test_who_does_not_wait_long_enough_is_told_that_the_task_goes_on(full: House) -> None:
    me = await full.client()
    await me.submit.aio(wait("t", "done"))

    with pytest.raises(TaskTimeout, match="go on"):
        await me.result.aio("t", timeout_s=0.1)
    full.door("t").set()

    assert await me.value.aio("t", timeout_s=5) == "done"


# ---- failing, retrying, timing out ----


async def test_a_task_that_fails_is_tried_again_on_another_worker(full: House, client: Redis) -> None:
    me = await full.client()
    await me.submit.aio(Task(task_id="t", task_type="flaky", payload=2, backoff_s=0.01))

    task = await me.result.aio("t", timeout_s=10)

    assert (task.status, task.result, task.retry_count) == ("completed", {"attempt": 3}, 3)
    assert full.runs["t"] == 3


async def test_a_task_fails_after_its_last_attempt_with_the_error_of_it(full: House) -> None:
    me = await full.client()
    await me.submit.aio(Task(task_id="t", task_type="flaky", payload=9, backoff_s=0.01, max_attempts=2))

    with pytest.raises(TaskFailed, match="ValueError: attempt 2") as caught:
        await me.value.aio("t", timeout_s=10)

    assert caught.value.status == "failed"
    assert "raise ValueError" in caught.value.traceback
    assert full.runs["t"] == 2


async def test_an_attempt_is_stopped_when_its_time_is_up(full: House) -> None:
    me = await full.client()
    await me.submit.aio(Task(task_id="t", task_type="slow"))

    task = await me.result.aio("t", timeout_s=10)

    assert task.error
    assert (task.status, task.error.type) == ("failed", "timeout")


async def test_a_task_past_its_deadline_is_abandoned(full: House) -> None:
    me = await full.client()
    await me.submit.aio(wait("t", deadline=datetime.now(UTC) + timedelta(seconds=0.4)))

    task = await me.result.aio("t", timeout_s=10)

    assert task.error
    assert (task.status, task.error.type) == ("abandoned", "deadline")


async def test_a_task_that_nobody_can_run_waits_until_somebody_can(full: House) -> None:
    me = await full.client()
    await me.submit.aio(add("t", 1, capabilities=("gpu",)))
    await me.submit.aio(add("other", 2))
    assert await me.value.aio("other", timeout_s=5) == 2

    await full.worker("w3", capabilities=["gpu"])

    task = await me.result.aio("t", timeout_s=5)
    assert task.assigned_to == "d/w3"


async def test_urgent_tasks_go_first(agents: House) -> None:
    await agents.coordinator()
    me = await agents.client()
    order = [Priority.LOW, Priority.NORMAL, Priority.URGENT, Priority.HIGH, Priority.CRITICAL]
    await me.submit_many.aio([add(priority.value, 1, priority=priority) for priority in order])

    await agents.distributor()
    await agents.worker(config=FAST.model_copy(update={"concurrency": 1}))
    _ = [task async for task in me.as_completed([priority.value for priority in order])]

    assert agents.log == ["urgent", "critical", "high", "normal", "low"]


# ---- cancelling ----


async def test_a_task_that_runs_can_be_cancelled(full: House) -> None:
    me = await full.client()
    await me.submit.aio(wait("t"))
    await runs(full, "t")

    await me.cancel.aio("t")

    assert (await me.result.aio("t", timeout_s=5)).status == "cancelled"


async def test_cancelling_a_task_cancels_all_it_has_spawned(full: House, client: Redis) -> None:
    me = await full.client()
    children = [{"task_id": f"t/{n}", "task_type": "wait"} for n in range(12)]  # more than run at once
    await me.submit.aio(spawn("t", children, then="outcomes"))
    await runs(full, "t/0")

    await me.cancel.aio("t")

    assert (await me.result.aio("t", timeout_s=5)).status == "cancelled"
    await until_async(lambda: is_empty(client, KEYS.open), "the children have ended as well")
    assert {await status(client, child["task_id"]) for child in children} == {"cancelled"}


async def test_a_task_that_has_ended_stays_as_it_is_when_it_is_cancelled(full: House) -> None:
    me = await full.client()
    await me.submit.aio(add("t", 1))
    await me.result.aio("t")

    assert await me.cancel.aio("t") is True
    assert (await me.result.aio("t")).status == "completed"


# ---- delegating ----


async def test_a_continuation_finds_how_the_children_ended_in_their_order(full: House) -> None:
    me = await full.client()
    children: list[dict[str, Any]] = [
        {"task_id": "a", "task_type": "add", "payload": [1, 2]},
        {"task_id": "b", "task_type": "flaky", "payload": 9, "max_attempts": 1},
        {"task_id": "c", "task_type": "add", "payload": [3]},
    ]

    await me.submit.aio(spawn("t", children, then="outcomes", payload="p"))

    assert await me.value.aio("t", timeout_s=10) == {
        "payload": "p",
        "children": [["a", "completed", 3], ["b", "failed", None], ["c", "completed", 3]],
    }


async def test_without_a_continuation_the_result_is_the_list_of_the_childrens(full: House) -> None:
    me = await full.client()

    await me.submit.aio(spawn("t", [{"task_type": "add", "payload": [n]} for n in range(5)]))

    assert await me.value.aio("t", timeout_s=10) == [0, 1, 2, 3, 4]


async def test_children_can_have_children(full: House) -> None:
    me = await full.client()

    await me.submit.aio(Task(task_id="t", task_type="tree", payload=4))

    assert await me.value.aio("t", timeout_s=20) == 16
    assert sum(full.runs.values()) == 31


async def test_a_task_that_spawns_more_than_a_message_can_carry_fails_and_says_so(full: House) -> None:
    me = await full.client()
    await me.submit.aio(Task(task_id="t", task_type="swarm", payload=11))

    task = await me.result.aio("t", timeout_s=10)

    assert task.error
    assert task.status == "failed"
    assert "spawn" in task.error.message


async def test_a_task_can_spawn_thousands(full: House) -> None:
    me = await full.client()

    await me.submit.aio(Task(task_id="t", task_type="fan", payload=5000))

    assert await me.value.aio("t", timeout_s=30) == 5000
