"""Dead letters over a real server: what is kept, who may have it run again, and that nothing of it is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from core.config.settings import A2ASecrets, RedisConfig
from core.errors import TaskRefused
from core.operations.dead_letters import dead_letters, original_message, signature_found
from core.operations.reader import reading
from core.redis_backend.keys import CoordinatorKeys
from core.tasks import Task, utc_now
from tests.builders import SECRET
from tests.integration.hierarchy import FAST, House, add, house, is_empty, wait
from tests.waiting import until_async

KEYS = CoordinatorKeys("k")
SECRETS = A2ASecrets(token_secret=SECRET.decode())


@pytest.fixture
async def home(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as built:
        yield built


def flaky(task_id: str, times: int, **fields: Any) -> Task:
    """Fails so often."""
    return Task(task_id=task_id, task_type="flaky", payload=times, **{"backoff_s": 0, **fields})


async def dead_ids(client: Any) -> list[str]:
    return [task_id.decode() for task_id in await client.zrange(KEYS.dead, 0, -1)]


async def test_a_dead_letter_has_each_attempts_error_and_the_message_as_its_client_signed_it(
    home: House, client: Any, redis_config: RedisConfig
) -> None:
    await home.coordinator()
    await home.distributor()
    await home.worker()
    submitter = await home.client("me~1")
    await submitter.submit_many.aio([flaky("bad", 9, max_attempts=3), add("good", 1, 2)])
    await submitter.result.aio("bad", 20)
    await submitter.result.aio("good", 20)

    async with reading(redis_config) as reader:
        [dead] = await dead_letters(reader, "k", 10)
        assert isinstance(dead, Task)
        message = await original_message(reader, "k", dead)

    assert [(error.attempt, error.message) for error in dead.errors] == [(n, f"attempt {n}") for n in (1, 2, 3)]
    assert message is not None
    assert str(message.sender) == "client:me~1"
    assert signature_found(message, "k", SECRETS, redis_config) == "valid"
    forged = A2ASecrets(token_secret="another secret of the same length")
    assert "neither" in signature_found(message, "k", forged, redis_config)
    assert await client.hlen(KEYS.submissions) == 1


async def test_a_dead_letter_outlives_its_coordinator_and_the_retention_and_runs_again_as_it_was_submitted(
    home: House, client: Any
) -> None:
    config = FAST.model_copy(update={"retention_s": 1})
    first = await home.coordinator(config=config)
    await home.distributor()
    await home.worker()
    submitter = await home.client()
    await submitter.submit_many.aio([flaky("bad", 1, max_attempts=1, idempotency_key="once"), add("good", 1)])
    await submitter.result.aio("bad", 20)
    await submitter.result.aio("good", 20)
    await first.close.aio()
    await home.coordinator(config=config)

    async def forgotten() -> bool:
        return not await client.hexists(KEYS.tasks, "good")

    await until_async(forgotten, "a task that ended well is forgotten after its retention", 30)
    home.runs.clear()
    new_id = await submitter.replay.aio("bad")
    ended = await submitter.result.aio(new_id, 20)

    assert new_id == "bad.replay1"
    assert (ended.status, ended.idempotency_key, ended.metadata) == ("failed", "once", {"replay_of": "bad"})
    assert home.runs == {"bad.replay1": 1}
    assert await dead_ids(client) == ["bad.replay1"]


async def test_a_task_that_missed_its_deadline_is_replayed_without_it_and_once_however_often_that_is_asked(
    home: House, client: Any
) -> None:
    await home.coordinator()
    await home.distributor()
    await home.worker()
    submitter = await home.client()
    await submitter.submit.aio(wait("late", "done", deadline=utc_now() + timedelta(seconds=0.5)))
    assert (await submitter.result.aio("late", 20)).status == "abandoned"
    home.door("late.replay1").set()

    again = [await submitter.replay.aio("late"), await submitter.replay.aio("late")]
    value = await submitter.value.aio(again[0], 20)

    assert again == ["late.replay1"] * 2
    assert await submitter.replay.aio("late") == "late.replay1"
    assert value == "done"
    assert home.runs["late.replay1"] == 1
    assert await is_empty(client, KEYS.dead)
    assert await is_empty(client, KEYS.submissions)


async def test_when_all_tasks_have_ended_well_nothing_is_kept_beside_their_records(home: House, client: Any) -> None:
    await home.coordinator()
    await home.distributor()
    await home.worker()
    submitter = await home.client()

    ids = await submitter.submit_many.aio([*(add(f"a{n}", n) for n in range(300)), flaky("f", 1)])
    async for _ in submitter.as_completed(ids, 30):
        pass

    assert await is_empty(client, KEYS.submissions)
    assert await is_empty(client, KEYS.dead)


async def test_what_is_purged_is_gone_and_what_is_no_dead_letter_is_refused(home: House, client: Any) -> None:
    await home.coordinator()
    await home.distributor()
    await home.worker()
    submitter = await home.client()
    await submitter.submit_many.aio([flaky("bad", 1, max_attempts=1), add("good", 1)])
    await submitter.result.aio("bad", 20)
    await submitter.result.aio("good", 20)

    assert await submitter.purge_dead_letter.aio("bad")

    assert await dead_ids(client) == []
    assert await is_empty(client, KEYS.submissions)
    for no_dead_letter in ("bad", "good", "nobody"):
        with pytest.raises(TaskRefused, match="not a dead letter"):
            await submitter.replay.aio(no_dead_letter)
    with pytest.raises(TaskRefused, match="not a dead letter"):
        await submitter.purge_dead_letter.aio("good")
