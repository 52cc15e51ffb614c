"""Releases side by side: what one does not know of the other's messages and records it ignores, what it misses it does
without, and another protocol it does not listen to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson
import pytest

from core import a2a_messaging
from core.config.settings import RedisConfig
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Action, Address, Role
from core.sealing import Sealed, bare
from core.signing import KeyRing
from core.tasks import Task
from tests.builders import SECRET, a_task
from tests.faults.keyspace import rejections
from tests.integration.hierarchy import House, add, house, runs, wait
from tests.integration.speaker import Speaker
from tests.waiting import until_async

#: What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands
Json = dict[str, Any]

KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
K, D, W, C = (
    Address(role, name)
    for role, name in [(Role.COORDINATOR, "k"), (Role.DISTRIBUTOR, "d"), (Role.WORKER, "w"), (Role.CLIENT, "c~1")]
)
INBOX = {K: KEYS.inbox, D: CELL.inbox, W: CELL.worker_inbox("w"), C: KEYS.replies(C)}
CHAIN = {K: (K,), D: (K, D), W: (K, D, W), C: (K, C)}

UNKNOWN = {"from_the_future": {"nested": [1, None, "x"]}, "another": 2.5}
FOREIGN = ("v2", "v10", "v2.0", "2", "", "V1")
#: What heartbeats and items say beyond what an agent needs to do its work.
DISPENSABLE = {"children", "messages", "ticks", "conflicts", "started_ms", "pid", "host"}
DISPENSABLE_OF_ITEMS = {"run_ms", "worker", "output"}


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as opened:
        yield opened


def newer(body: Json) -> Json:
    """As a later release would say it: with fields that nobody has heard of, at every level."""
    items = [{**item, **UNKNOWN} if isinstance(item, dict) else item for item in body["payload"].get("tasks", [])]
    payload = {**body["payload"], **UNKNOWN, **({"tasks": items} if items else {})}
    metadata = {**body["metadata"], **UNKNOWN, "version": "v1.7"}
    return {**body, **UNKNOWN, "payload": payload, "metadata": metadata}


def older(body: Json) -> Json:
    """As an earlier one would: without what is optional, and with nothing where there is nothing to say."""
    metadata = {name: value for name, value in body["metadata"].items() if value is not None}
    payload = {name: value for name, value in body["payload"].items() if name not in DISPENSABLE and value != []}
    if items := payload.get("tasks"):
        payload["tasks"] = [
            {name: value for name, value in item.items() if name not in DISPENSABLE_OF_ITEMS}
            if isinstance(item, dict)
            else item
            for item in items
        ]
    return {**body, "payload": payload, "metadata": metadata}


@pytest.fixture
def other_release(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes one tier speak as another release: (who, how)."""
    who, change = request.param
    encode = a2a_messaging.encode_body

    def encode_otherwise(kind: Any, sender: str, recipient: str, payload: Mapping[str, Any], metadata: Any) -> bytes:
        body = encode(kind, sender, recipient, payload, metadata)
        return orjson.dumps(change(orjson.loads(body))) if sender == who else body

    monkeypatch.setattr("core.runtime.outbox.encode_body", encode_otherwise)


@pytest.mark.matrix(52)
@pytest.mark.parametrize(
    "other_release",
    [(who, change) for who in ("c", "k", "d", "w") for change in (newer, older)],
    indirect=True,
    ids=[f"{how} {who}" for who in ("client", "coordinator", "distributor", "worker") for how in ("newer", "older")],
)
@pytest.mark.usefixtures("other_release")
async def test_one_tier_of_another_release_works_with_the_others(agents: House, client: Redis) -> None:
    await agents.coordinator()
    distributor = await agents.distributor()
    await agents.worker()
    submitter = await agents.client("c~1")
    ids = await submitter.submit_many.aio([add(f"t{number}", number, 1) for number in range(10)])
    ids += await submitter.submit_many.aio(
        [Task(task_id="tree", task_type="tree", payload=2), Task(task_id="flaky", task_type="flaky", payload=1)]
    )
    stopped = await submitter.submit.aio(wait("stopped"))
    await runs(agents, "stopped")
    await submitter.cancel.aio(stopped)

    ended = {task.task_id: task async for task in submitter.as_completed([*ids, stopped], 30)}

    assert [ended[f"t{number}"].result for number in range(10)] == [number + 1 for number in range(10)]
    assert ended["tree"].result == 4
    assert ended["flaky"].result == {"attempt": 2}
    assert ended["stopped"].status == "cancelled"
    assert max(agents.runs[f"t{number}"] for number in range(10)) == 1
    assert await rejections(client) == []
    assert sum(distributor.loop.inbox.rejected.values()) == 0


KINDS = {KEYS.tasks: Sealed.TASK, CELL.actual: Sealed.CELL}
SEALS = {KEYS.tasks: KeyRing.from_secret(SECRET, (K,)).seals, CELL.actual: KeyRing.from_secret(SECRET, (K, D)).seals}


@pytest.mark.matrix(52)
@pytest.mark.parametrize("change", [newer, older], ids=["newer", "older"])
async def test_records_that_another_release_has_left_are_taken_over(
    agents: House, client: Redis, change: Callable[[Json], Json]
) -> None:
    tiers = [await agents.coordinator(), await agents.distributor(), await agents.worker()]
    submitter = await agents.client("c~1")
    ids = await submitter.submit_many.aio([wait(f"t{number}", number) for number in range(10)])
    await runs(agents, "t0")
    for agent in reversed(tiers):
        await agent.close.aio()
    assert await client.hlen(CELL.actual) > 0
    for key in (KEYS.tasks, CELL.actual):
        for task_id, record in (await client.hgetall(key)).items():
            fields = orjson.loads(bare(record))
            changed = orjson.dumps({**fields, **UNKNOWN} if change is newer else _bare(fields))
            await client.hset(key, task_id, SEALS[key].seal(KINDS[key], task_id.decode(), changed))
    for key in (KEYS.header, CELL.header):
        await client.hset(key, "from_the_future", b"\xff{")

    await agents.coordinator()
    await agents.distributor()
    await agents.worker("w2")

    for task_id in ids:
        agents.door(task_id).set()
    ended = {task.task_id: task.result async for task in submitter.as_completed(ids, 30)}
    assert ended == {f"t{number}": number for number in range(10)}
    assert await rejections(client) == []


def _bare(record: Json) -> Json:
    """A record with no more than says what to do and who wants to know."""
    names = (
        *("task_id", "task_type", "payload", "status", "created_at", "reply_to", "attempt", "assigned_to", "root_id"),
        "owner",
    )
    return {name: value for name, value in record.items() if name in names}


@pytest.mark.matrix(52)
async def test_a_message_of_an_unknown_major_version_is_put_aside_by_every_tier_and_dropped_by_a_client(
    agents: House, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    submitter = await agents.client("c~1")
    links = [
        (C, K, Action.SUBMIT_TASK), (D, K, Action.TASK_RESULT), (K, D, Action.ASSIGN_TASK),
        (W, D, Action.TASK_RESULT), (D, W, Action.ASSIGN_TASK), (K, C, Action.TASK_RESULT),
    ]  # fmt: skip
    tasks = [orjson.loads(a_task("other").to_json())]
    for sender, recipient, action in links:
        speaker = Speaker(client, CHAIN[sender], recipient, INBOX[recipient], incarnation=2**52)
        for version in FOREIGN:
            await speaker.say(action, tasks=tasks, version=version)
    beat = await Speaker(client, CHAIN[D], K, "").signed(Action.BEAT, version="v2", incarnation=2**52)
    await client.hset(KEYS.heartbeats, "d", beat.pack())

    async def put_aside() -> bool:
        return len(await rejections(client)) == (len(links) - 1) * len(FOREIGN)

    await until_async(put_aside, "all are put aside")
    assert set(await rejections(client)) == {"malformed"}

    def dropped() -> bool:
        return [getattr(record, "action", "") for record in caplog.records].count("reply_rejected") == len(FOREIGN)

    await until_async(dropped, "the client has dropped its own")
    assert not await client.hexists(KEYS.tasks, "other")
    assert coordinator.state.distributors["d"].incarnation < 2**52
    assert await submitter.value.aio(await submitter.submit.aio(add("good", 1, 2)), 20) == 3
