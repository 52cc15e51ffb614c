"""Somebody has one legitimate key, a client's or a worker's, or only has code run in a worker. It hurts what that key
may touch, and nobody else: every other task ends well, at its first attempt, in the same lives of all agents."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from core.config.settings import RedisConfig
from core.errors import TaskLost, TaskRefused, UnknownTask
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Action, Address, Role
from core.runtime.outbox import MAX_BYTES
from core.tasks import Task
from tests.faults.keyspace import rejections
from tests.integration.hierarchy import FAST, House, add, house, spawn, wait
from tests.integration.speaker import Redis, Speaker, overheard
from tests.waiting import until_async
from worker.authoring.context import Context, Spawn
from worker.authoring.handlers import HANDLERS, task

K, D, W = (Address(role, name) for role, name in [(Role.COORDINATOR, "k"), (Role.DISTRIBUTOR, "d"), (Role.WORKER, "w")])
BOB, THIEF = Address(Role.CLIENT, "bob~1"), Address(Role.WORKER, "thief")
KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
NAIVE = "2030-01-01T12:00:00"


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as home:
        yield home


def client_speaker(client: Redis, who: Address = BOB) -> Speaker:
    return Speaker(client, (K, who), K, KEYS.inbox, incarnation=now_ms())


def worker_speaker(client: Redis, who: Address = THIEF) -> Speaker:
    return Speaker(client, (K, D, who), D, CELL.inbox, incarnation=now_ms())


def now_ms() -> int:
    return int(time.time() * 1000)


async def beats(speaker: Speaker, number: int, **fields: Any) -> None:
    """A heartbeat of who speaks, as its key lets it say."""
    payload = {"beat": number, "concurrency": 4, "capabilities": ["task:add"], **fields}
    signed = await speaker.signed(Action.BEAT, number=number, **payload)
    heartbeats = KEYS.heartbeats if speaker.recipient == K else CELL.heartbeats
    await speaker.client.hset(heartbeats, speaker.chain[-1].agent_id, signed.pack())


@asynccontextmanager
async def nothing_else_hurt(agents: House, **config: Any) -> AsyncIterator[Any]:
    """A hierarchy at work around the block; afterwards it is the same one, and serves others as before."""
    fields = {"config": FAST.model_copy(update=config)} if config else {}
    coordinator, distributor = await agents.coordinator(**fields), await agents.distributor()
    await agents.worker()
    alice = await agents.client("alice")
    await alice.submit_many.aio([add(f"before-{n}", n) for n in range(5)])
    lives = coordinator.loop.committer.lease.epoch, distributor.loop.committer.lease.epoch
    yield alice
    await alice.submit_many.aio([add(f"after-{n}", n) for n in range(5)])
    for name in ("before", "after"):
        assert [await alice.value.aio(f"{name}-{n}", 20) for n in range(5)] == [*range(5)]
        assert {agents.runs[f"{name}-{n}"] for n in range(5)} == {1}
    assert (coordinator.loop.committer.lease.epoch, distributor.loop.committer.lease.epoch) == lives


# ---- what only runs user code ----


async def test_a_child_whose_deadline_has_no_time_zone_fails_its_parent_at_once_and_nobody_else(agents: House) -> None:
    async with nothing_else_hurt(agents) as alice:
        child = {"task_type": "type_of_nobody", "deadline": NAIVE}
        await alice.submit.aio(spawn("parent", [child], then="total"))
        ended = await alice.result.aio("parent", 20)

        assert (ended.status, agents.runs["parent"]) == ("failed", 0)
        assert "timezone" in ended.error.message


async def test_a_task_that_spawns_without_end_fails_with_all_below_it(agents: House) -> None:
    @task("bomb", retries=0)
    async def bomb(ctx: Context) -> Spawn:
        return ctx.spawn([Task(task_type="bomb") for _ in range(4)])

    agents.handlers.add(HANDLERS.get("bomb"))
    async with nothing_else_hurt(agents, max_tree_tasks=50) as alice:
        await alice.submit.aio(Task(task_id="bomb", task_type="bomb"))
        ended = await alice.result.aio("bomb", 20)

        assert (ended.status, ended.error.type) == ("failed", "tree_limit")
        assert "MAX_TREE_TASKS" in ended.error.message


async def test_a_task_that_spawns_ever_deeper_fails_with_all_below_it(agents: House) -> None:
    async with nothing_else_hurt(agents, max_tree_depth=3) as alice:
        await alice.submit_many.aio([Task(task_id=f"t{n}", task_type="tree", payload=n) for n in (3, 4)])

        assert await alice.value.aio("t3", 20) == 8
        ended = await alice.result.aio("t4", 20)
        assert (ended.status, ended.error.type) == ("failed", "tree_limit")
        assert "MAX_TREE_DEPTH" in ended.error.message


async def test_no_child_takes_the_id_of_a_result_that_belongs_to_another(agents: House) -> None:
    async with nothing_else_hurt(agents) as alice:
        bob = await agents.client("bob")
        await alice.submit.aio(spawn("family", [{"task_id": "child-17", "task_type": "add", "payload": [17]}]))
        await alice.submit.aio(add("order-17", 17))
        before = [await alice.result.aio(task_id, 20) for task_id in ("family", "order-17")]

        for taken in ("order-17", "child-17"):  # first a child that says it has had that child before
            claims: dict[str, Any] = {"task_id": f"x-{taken}", "task_type": "spawn", "children": [taken]}
            claims["payload"] = {"children": [{"task_id": taken, "task_type": "add", "payload": [666]}]}
            await bob.submit.aio(spawn(f"bob-{taken}", [claims]))
            await bob.result.aio(f"bob-{taken}", 20)

        assert [await alice.result.aio(task_id, 20) for task_id in ("family", "order-17")] == before
        assert (await alice.result.aio("child-17", 20)).result == 17


# ---- a client's key ----


async def test_messages_of_more_items_than_a_sender_makes_are_put_aside_by_their_count(
    agents: House, client: Redis
) -> None:
    async with nothing_else_hurt(agents):
        bob = client_speaker(client)
        for action, items in [
            (Action.SUBMIT_TASK, [1] * 1_500_000),
            (Action.SUBMIT_TASK, [{"task_id": "t", "task_type": "add", "children": [1] * 1_500_000}]),
            (Action.WATCH_TASK, [1] * 1_000_000),
            (Action.WATCH_TASK, ["x" * 3_000_000]),
            (Action.CANCEL_TASK, [[1] * 1_000_000]),
        ]:
            await bob.say(action, tasks=items)
        await until_async(lambda: _is_read(client), "all is dealt with")

        assert await rejections(client) == ["too_large", "too_large"]
        replies = await overheard(client, KEYS.replies(BOB), (K, BOB))
        assert sum(len(signed.body) for signed, _ in replies) < 10_000


async def test_no_tasks_at_all_instead_of_a_list_is_put_aside_and_costs_no_other_message(
    agents: House, client: Redis
) -> None:
    async with nothing_else_hurt(agents) as alice:
        bob = client_speaker(client)
        for n in range(20):
            await bob.say(Action.CANCEL_TASK, tasks=None)
            await alice.submit.aio(add(f"between-{n}", n))

        assert [await alice.value.aio(f"between-{n}", 20) for n in range(20)] == [*range(20)]
        assert await rejections(client) == ["malformed"] * 20


async def test_a_client_sees_and_touches_its_own_tasks_and_an_operator_all(agents: House, client: Redis) -> None:
    async with nothing_else_hurt(agents) as alice:
        bob, ops, again = [await agents.client(name) for name in ("bob", "operator:ops", "alice")]
        await alice.submit_many.aio(
            [
                add("hers", 1),
                wait("open"),
                Task(task_id="dead", task_type="slow"),
                add("shared", 2, shared_with=("bob",)),
            ]
        )
        for task_id in ("hers", "dead", "shared"):
            await alice.result.aio(task_id, 20)

        for task_id in ("hers", "open", "dead"):
            with pytest.raises((UnknownTask, TaskLost)):
                await bob.result.aio(task_id, 10)
            with pytest.raises(TaskRefused, match="in use"):
                await bob.submit.aio(add(task_id, 666))
        with pytest.raises(UnknownTask):
            await bob.cancel.aio("open")
        with pytest.raises(TaskRefused, match="not a dead letter"):
            await bob.replay.aio("dead")
        with pytest.raises(TaskRefused, match="not a dead letter"):
            await bob.purge_dead_letter.aio("dead")

        assert await bob.value.aio("shared", 10) == 2
        assert await again.value.aio("hers", 10) == 1
        assert await ops.value.aio("hers", 10) == 1
        assert await ops.cancel.aio("open")
        assert (await alice.result.aio("open", 10)).status == "cancelled"
        assert await ops.replay.aio("dead") == "dead.replay1"
        assert (await alice.result.aio("dead.replay1", 10)).status == "failed"
        assert await client.zrange(KEYS.dead, 0, -1) == [b"dead.replay1"]


async def test_an_answer_holds_so_many_bytes_of_records_at_most_and_the_stream_of_replies_too(
    agents: House, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.task_life.MAX_TOLD_BYTES", 1_000_000)
    monkeypatch.setattr("core.runtime.outbox.REPLIES_BYTES", 3 * MAX_BYTES)
    async with nothing_else_hurt(agents):
        bob = await agents.client("bob")
        ids = await bob.submit_many.aio([wait(f"large-{n}", "x" * 200_000) for n in range(10)])
        for task_id in ids:
            agents.door(task_id).set()
        assert len([task async for task in bob.as_completed(ids, 20)]) == 10

        speaker = client_speaker(client, Address(Role.CLIENT, "bob~2"))
        for _ in range(10):
            await speaker.say(Action.WATCH_TASK, tasks=ids)
        await until_async(lambda: _is_read(client), "all is dealt with")

        replies = KEYS.replies(Address(Role.CLIENT, "bob~2"))
        assert await client.memory_usage(replies) < 10 * MAX_BYTES
        assert len([task async for task in bob.as_completed(ids, 20)]) == 10


async def _is_read(client: Redis) -> bool:
    return not await client.xlen(KEYS.inbox)


# ---- a worker's key ----


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity": 2**63 - 1},
        {"concurrency": 10**9},
        {"capabilities": [f"name-{n}" for n in range(24_000)]},
        {"attempts": {f"name-{n}": 3 for n in range(24_000)}},
        {"holding": [["t", 2**63 - 1]]},
    ],
    ids=["capacity", "concurrency", "capabilities", "attempts", "holding"],
)
async def test_a_worker_that_says_too_much_of_itself_is_not_heard(
    agents: House, client: Redis, wrong: dict[str, Any]
) -> None:
    async with nothing_else_hurt(agents):
        thief = worker_speaker(client)
        await thief.say(Action.AGENT_JOINED, beat=1, **{"concurrency": 4, "capabilities": ["task:add"], **wrong})
        await beats(thief, 2, **wrong)
        await until_async(lambda: _count(client, 1, CELL), "what it says is put aside")

        assert b"thief" not in await client.hget(CELL.header, "assigned_workers")


async def test_a_malformed_report_costs_its_own_task_an_attempt_and_those_beside_it_nothing(
    agents: House, client: Redis
) -> None:
    async with nothing_else_hurt(agents) as alice:
        thief = worker_speaker(client)
        await thief.say(Action.AGENT_JOINED, beat=1, concurrency=4, capabilities=["task:stolen"])
        stolen = [Task(task_id=f"s{n}", task_type="stolen", max_attempts=1) for n in range(8)]
        await alice.submit_many.aio(stolen)
        handed: list[dict[str, Any]] = []
        malformed: list[dict[str, Any]] = [
            {"started_at": "garbage"}, {"error": [1]}, {"then": 5}, {"children": 5}, {"status": "in_progress"},
            {"status": "pending"}, {"result": "x" * 3_000_000},
            {"status": "delegated", "children": [{"task_type": "add", "deadline": NAIVE}]},
        ]  # fmt: skip
        for number, wrong in enumerate(malformed, start=2):
            await beats(thief, number, capabilities=["task:stolen"])
            await until_async(lambda: _are_handed(client, handed), "the thief has been handed a task")
            assignment = handed.pop(0)
            item = {"task_id": assignment["task_id"], "attempt": assignment["attempt"], "status": "completed", **wrong}
            good = {"task_id": "nobodys", "attempt": 1, "status": "completed"}
            await thief.say(Action.TASK_RESULT, tasks=[good, item], number=thief.number + 1)

        ended = [await alice.result.aio(task.task_id, 20) for task in stolen]

        assert {task.status for task in ended} == {"failed"}
        assert {task.error.type for task in ended if task.error} == {"malformed_report", "BadTask"}


async def _are_handed(client: Redis, handed: list[dict[str, Any]]) -> bool:
    """Whether there are tasks that the thief has been handed and not reported; takes the new ones from its inbox."""
    inbox = CELL.worker_inbox("thief")
    for entry, fields in await client.xrange(inbox):
        handed += orjson.loads(fields[b"body"])["payload"]["tasks"]
        await client.xdel(inbox, entry)
    return bool(handed)


async def test_no_number_of_a_start_that_a_stolen_key_claims_leaves_its_owner_deaf_for_more_than_a_day(
    agents: House, client: Redis
) -> None:
    async with nothing_else_hurt(agents):
        for speaker in (worker_speaker(client, W), client_speaker(client), Speaker(client, (K, D), K, KEYS.inbox)):
            speaker.incarnation = 2**53 - 1
            await speaker.say(Action.TASK_RESULT if speaker.recipient == D else Action.CANCEL_TASK, tasks=[])
            if speaker.chain[-1] in (W, D):
                await beats(speaker, 10_000)
        await until_async(lambda: _count(client, 1, CELL), "it is put aside")


async def _count(client: Redis, count: int, keys: Any) -> bool:
    return int(await client.xlen(keys.agent("k").quarantine)) >= count
