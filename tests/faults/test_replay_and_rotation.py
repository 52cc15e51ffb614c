"""What was said once is not heard twice, wherever and whenever it is said again; and keys change under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from core.client.agent_client import AgentClient
from core.config.settings import AgentConfig, RedisConfig
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Address, Role
from core.runtime.agent import Agent
from core.runtime.outbox import Outbox
from core.signing import Signed
from core.tasks import Task
from tests.builders import SECRET
from tests.faults.keyspace import everything, rejections, state_of
from tests.integration.hierarchy import House, add, house, runs, signed_as, wait
from tests.waiting import until_async

#: Nobody counts as gone because a busy machine makes it slow.
PATIENT = AgentConfig(heartbeat_s=0.1, failure_timeout_s=20, lease_s=20)

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands
Fields = dict[bytes, bytes]

KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
INBOXES = (KEYS.inbox, CELL.inbox, CELL.worker_inbox("w1"), CELL.worker_inbox("w2"))
A, B, C = SECRET.decode(), "the second root secret, long enough", "the third root secret, long enough"


class Tape:
    """Everything that is said: messages with the stream they went to, heartbeats with the hash and the field."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Fields]] = []
        self.beats: list[tuple[str, str, bytes]] = []


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    """Records what all agents and clients of this process say."""
    recorded = Tape()
    commands, beat = Outbox.commands, Outbox.beat

    def recording(self: Outbox, *args: Any) -> list[Any]:
        made: list[Any] = commands(self, *args)
        for name, stream, *parts in made:
            if name == "XADD":
                fields = parts[parts.index("*") + 1 :]
                recorded.messages.append((stream, dict(zip(fields[::2], fields[1::2], strict=True))))
        return made

    def recording_beat(self: Outbox, parent: Address, *args: Any) -> bytes:
        packed = beat(self, parent, *args)
        where = KEYS.heartbeats if parent.role is Role.COORDINATOR else CELL.heartbeats
        recorded.beats.append((where, self._me.agent_id, packed))
        return packed

    monkeypatch.setattr(Outbox, "commands", recording)
    monkeypatch.setattr(Outbox, "beat", recording_beat)
    return recorded


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as opened:
        yield opened


async def start(agents: House, name: str, secret: str, also: str | None) -> Agent:
    known: dict[str, Any] = {
        "a2a_config": signed_as(name, token_secret=secret, previous_secret=also),
        "config": PATIENT,
    }
    if name == "k":
        return await agents.coordinator(**known)
    return await (agents.distributor(**known) if name == "d" else agents.worker(name, **known))


async def everybody(agents: House, secret: str, also: str | None) -> dict[str, Agent]:
    """All tiers, signing with one secret and accepting another as well."""
    return {name: await start(agents, name, secret, also) for name in ("k", "d", "w1", "w2")}


async def quiet(client: Redis) -> None:
    async def empty() -> bool:
        return not any([await client.xlen(key) for key in INBOXES])

    await until_async(empty, "every inbox is empty")


async def put_aside(client: Redis, count: int) -> None:
    """Waits until so many messages have been put aside, all of them as said before."""

    async def done() -> bool:
        return len(await rejections(client)) >= count

    await until_async(done, f"{count} messages are put aside")
    assert set(await rejections(client)) <= {"replayed", "stale"}
    assert len(await rejections(client)) == count


# ---- said again ----


async def some_work(agents: House) -> AgentClient:
    """A client that has had tasks run, alone and in families, and cancelled one."""
    submitter = await agents.client("c~1", token_secret=A, previous_secret=B)
    ids = await submitter.submit_many.aio([add(f"t{number}", number, 1) for number in range(20)])
    tree = await submitter.submit.aio(Task(task_id="family", task_type="tree", payload=2))
    waiting = await submitter.submit.aio(wait("cancelled"))
    await runs(agents, "cancelled")
    await submitter.cancel.aio(waiting)
    ended = [task.task_id async for task in submitter.as_completed([*ids, tree, waiting], 30)]
    assert len(ended) == 22
    return submitter


async def one_second_passes(agents: House, client: Redis, roles: dict[str, Agent]) -> None:
    began_s, _ = await client.time()

    async def later() -> bool:
        return bool((await client.time())[0] >= began_s + 2)  # whole seconds: at least one has passed

    await until_async(later, "a second has passed on the server's clock")


async def all_start_anew(agents: House, client: Redis, roles: dict[str, Agent]) -> None:
    for agent in reversed(roles.values()):
        await agent.close.aio()
    await everybody(agents, A, B)


async def the_keys_change(agents: House, client: Redis, roles: dict[str, Agent]) -> None:
    for agent in reversed(roles.values()):
        await agent.close.aio()
    await everybody(agents, B, A)


async def nothing_happens(agents: House, client: Redis, roles: dict[str, Agent]) -> None:
    pass


@pytest.mark.matrix(27)
@pytest.mark.parametrize(
    ("meanwhile", "later_s"),
    [(one_second_passes, 0), (all_start_anew, 0), (the_keys_change, 0), (nothing_happens, 60), (nothing_happens, 3600)],
    ids=["1 s later", "after a restart", "after a key rotation", "60 s later", "an hour later"],
)
async def test_what_was_said_changes_nothing_when_it_is_said_again(
    agents: House,
    client: Redis,
    tape: Tape,
    caplog: pytest.LogCaptureFixture,
    meanwhile: Callable[[House, Redis, dict[str, Agent]], Awaitable[None]],
    later_s: int,
) -> None:
    """Later by the clock that counts, the server's, on which messages arrive."""
    roles = await everybody(agents, A, B)
    submitter = await some_work(agents)
    await quiet(client)
    said = tape.messages[:]
    await meanwhile(agents, client, roles)
    await quiet(client)
    before, ran = await state_of(client), dict(agents.runs)

    caplog.clear()
    to_agents, to_client = await replay(client, said, later_s)
    await put_aside(client, to_agents)

    def dropped() -> bool:
        return [getattr(record, "action", "") for record in caplog.records].count("reply_rejected") == to_client

    await until_async(dropped, "the client has dropped every reply")
    after = await state_of(client)
    for state in (before, after):
        state.pop(KEYS.replies(Address(Role.CLIENT, "c~1")))
    assert after == before
    assert dict(agents.runs) == ran
    assert await submitter.value.aio(await submitter.submit.aio(add("afterwards", 1, 2)), 20) == 3


async def replay(client: Redis, said: list[tuple[str, Fields]], later_s: int) -> tuple[int, int]:
    """Posts it all again, to arrive so much later than now. Returns how much went to agents, and to clients."""
    arrival = f"{((await client.time())[0] + later_s) * 1000}-*" if later_s else "*"
    pipeline = client.pipeline(transaction=False)
    for stream, fields in said:
        pipeline.xadd(stream, fields, id=arrival)
    await pipeline.execute()
    to_agents = sum(stream in INBOXES for stream, _ in said)
    return to_agents, len(said) - to_agents


@pytest.mark.matrix(27)
async def test_a_client_that_comes_back_is_told_nothing_by_replies_from_before(
    agents: House, client: Redis, tape: Tape
) -> None:
    await everybody(agents, A, B)
    first = await some_work(agents)
    await first.close.aio()
    await replay(
        client,
        [(stream, fields) for stream, fields in tape.messages if stream == KEYS.replies(Address(Role.CLIENT, "c~1"))],
        0,
    )

    again = await agents.client("c~1")
    fresh = await again.submit.aio(add("t-new", 2, 2))
    ended = [(task.task_id, task.result) async for task in again.as_completed([fresh, "t3"], 20)]

    assert sorted(ended) == [("t-new", 4), ("t3", 4)]
    assert "t5" not in again._endings


@pytest.mark.matrix(27)
async def test_an_old_heartbeat_keeps_nobody_alive_and_brings_nobody_back(
    agents: House, client: Redis, tape: Tape
) -> None:
    _, distributor, _, leaving = (await everybody(agents, A, None)).values()
    await until_async(lambda: b"w2" in distributor.loop.heartbeat._heard._seen, "its heartbeat is heard")
    await leaving.close.aio()
    await until_async(lambda: set(distributor.state.workers) == {"w1"}, "one has said goodbye")
    await until_async(
        lambda: b"w2" not in distributor.loop.heartbeat._heard._seen, "it is not among the heartbeats either"
    )
    rejected = distributor.loop.inbox.rejected["replayed"]

    await client.hset(CELL.heartbeats, "w2", next(packed for _, name, packed in tape.beats if name == "w2"))

    await until_async(lambda: distributor.loop.inbox.rejected["replayed"] == rejected + 1, "it is seen")
    assert set(distributor.state.workers) == {"w1"}


@pytest.mark.matrix(27)
async def test_a_heartbeat_posted_as_a_message_is_put_aside_and_takes_no_number_of_the_senders(
    agents: House, client: Redis, tape: Tape
) -> None:
    """Both are rightly signed by the same agent, but numbered apart."""
    await everybody(agents, A, None)
    await quiet(client)
    seen = await client.hgetall(CELL.agent("k").seen)
    _, _, packed = next(beat for beat in tape.beats if beat[0] == CELL.heartbeats)
    fields = Signed.unpack(packed).fields()

    await client.xadd(CELL.inbox, dict(zip(fields[::2], fields[1::2], strict=True)))

    async def aside() -> bool:
        return await rejections(client) == ["not_permitted"]

    await until_async(aside, "it is put aside")
    assert await client.hgetall(CELL.agent("k").seen) == seen


# ---- other keys, under load ----

#: What every tier and client is restarted with, one after the other, for two rotations: (secret, also accepted).
STEPS = [(A, B), (B, A), (B, C), (C, B), (C, None)]
LOAD = 300


@pytest.mark.matrix(28)
async def test_two_key_rotations_during_300_tasks_reject_no_valid_message(
    agents: House, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A new secret is accepted everywhere before anybody signs with it, and the old one until nobody does any more."""
    roles = await everybody(agents, A, None)
    clients = [await agents.client("c-0", token_secret=A)]
    at_work, ended, submitted, rotated = clients[0], list[str](), 0, False

    async def load() -> None:
        nonlocal at_work, submitted
        while submitted < LOAD or not rotated:
            first, at_work = submitted, clients[-1]
            submitted += 10
            ids = await at_work.submit_many.aio([add(f"t{n}", n, 1) for n in range(first, first + 10)], 60)
            ended.extend([task.task_id async for task in at_work.as_completed(ids, 60) if task.status == "completed"])

    loading = asyncio.create_task(load())
    for number, (secret, also) in enumerate(STEPS, 1):
        for name in roles:
            await roles[name].close.aio()
            roles[name] = await start(agents, name, secret, also)
        clients.append(await agents.client(f"c-{number}", token_secret=secret, previous_secret=also))
        await until_async(lambda: at_work is clients[-1], "the client is another one as well")
    rotated = True
    await loading

    assert sorted(ended) == sorted(f"t{number}" for number in range(submitted))
    assert await rejections(client) == []
    counted = [value for value in (await everything(client)).values() if isinstance(value, dict)]
    assert not [name for value in counted for name in value if name.startswith(b"rejected:")]
    assert not [record.getMessage() for record in caplog.records if "rejected" in getattr(record, "action", "")]
