"""Somebody who may write to Redis and has no key: what they write is heard by nobody, ends nobody, and fills no memory.

They can delete what lies there, and so stop work for as long as they go on; this is about what outlasts them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from coordinator.state import Audit
from core.cli.app import app
from core.config.settings import RedisConfig
from core.errors import AgentSystemError, PeerError
from core.operations import reader
from core.operations.reader import reading
from core.redis_backend import bounded_reads
from core.redis_backend.keys import ACTIVE, CellKeys
from core.redis_client import Wire
from core.roles import Action, Address, Role
from core.runtime import rejection_log
from core.runtime.inbox import Entry
from core.runtime.outbox import Outbox
from core.runtime.rejection_log import CURES, RejectionLog
from core.signing import KeyRing
from core.tasks import Task
from tests.builders import SECRET
from tests.faults.flood import KINDS, flood
from tests.faults.test_hostile_messages import KEYS, C, K, Memory, Redis, coordinators_inbox, fields_of, post, speaker
from tests.integration.hierarchy import House, add, house, wait
from tests.redis_server import RedisServer
from tests.tiers import Tiers
from tests.waiting import until_async

CELL = CellKeys("d")
MIB = 1024 * 1024


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as opened:
        yield opened


async def write_large(client: Redis, key: str, field: str, size: int) -> None:
    """A field of that size, made on the server."""
    await client.setrange("large", size - 1, "x")
    await client.eval("redis.call('HSET', KEYS[1], ARGV[1], redis.call('GET', 'large'))", 1, key, field)
    await client.delete("large")


# ---- heartbeats ----


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from /proc")
async def test_a_heartbeat_of_200_mib_and_1000_that_are_none_cost_their_reader_64_mib_at_most_and_no_child(
    agents: House, redis_config: RedisConfig, client: Redis, tmp_path: Path
) -> None:
    with Tiers(redis_config, tmp_path, A2A_TOKEN_SECRET=SECRET.decode()) as tiers:
        tiers.start("coordinator", "k")
        await agents.distributor()
        await agents.worker()
        submitter = await agents.client()
        assert await submitter.value.aio(await submitter.submit.aio(add("before", 1, 2)), 30) == 3
        memory = Memory(tiers.pid("k"))
        memory.forget_peak()
        before_mib = memory.resident()

        await write_large(client, KEYS.heartbeats, "distributor-9", 200 * MIB)
        await client.hset(
            KEYS.heartbeats, mapping={f"{number}" + "x" * 200 * (number % 2): b"x" * 50_000 for number in range(1000)}
        )

        async def trimmed() -> bool:
            return not await client.hexists(KEYS.heartbeats, "distributor-9")

        await until_async(trimmed, "what is too large is deleted")
        ids = await submitter.submit_many.aio([add(f"after-{n}", n, 1) for n in range(20)])
        ended = [task async for task in submitter.as_completed(ids, 30)]

        assert {task.status for task in ended} == {"completed"}
        assert await client.hexists(KEYS.heartbeats, "d")
        assert memory.peak() - before_mib < 64
        log = [json.loads(line) for line in tiers.log("k").splitlines()]
        assert "distributor_gone" not in [line.get("action") for line in log]
        rejections = [line for line in log if line.get("action") == "beat_rejected"]
        assert len(rejections) <= len({line["reason"] for line in rejections}) * 2
        assert "xxx" not in tiers.log("k")


async def test_a_hash_that_has_more_fields_than_there_are_agents_begins_anew(
    redis_config: RedisConfig, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_reads, "MAX_FIELDS", 100)
    await client.hset("h", mapping={f"{number}": "x" for number in range(101)})
    wire = Wire(redis_config)
    await wire.connect()

    [_, left] = await wire.exchange(bounded_reads.trimmed_hash("h"))
    await wire.close()

    assert left == []
    assert not await client.exists("h")


# ---- leases, fences, windows ----

NO_LEASES: dict[str, bytes] = {
    "no JSON": b"\xffrubbish", "no object": b"17", "no lease": b"{}", "another type": b'{"epoch": "x", "process": 5}',
}  # fmt: skip


@pytest.mark.parametrize("rubbish", NO_LEASES.values(), ids=NO_LEASES)
async def test_a_lease_that_is_none_stops_its_holder_for_a_moment_and_a_successor_for_a_lease_time(
    agents: House, client: Redis, rubbish: bytes
) -> None:
    first = await agents.coordinator()
    before = first.loop.committer.lease.epoch
    await client.set(KEYS.agent.lease, rubbish)  # without an end

    await until_async(lambda: first.loop.committer.lease.epoch > before, "the holder takes it again")
    assert orjson.loads(await client.get(KEYS.agent.lease))["epoch"] > before
    await first.close.aio()
    await client.set(KEYS.agent.lease, rubbish)

    second = await agents.coordinator()
    assert second.loop.committer.lease.epoch > before + 1


async def test_a_lease_key_of_another_type_or_size_is_taken_over(agents: House, client: Redis) -> None:
    await client.hset(KEYS.agent.lease, "x", "y")
    await (await agents.coordinator()).close.aio()
    await client.setrange(KEYS.agent.lease, 100 * MIB, "x")

    await agents.coordinator()

    assert await client.strlen(KEYS.agent.lease) < 1000


#: The last of them: ten years ahead, which no peer would believe.
NUMBERS = ["x", "-1", "1e9", "\xff", "9" * 400, f"{2**53 - 1}", f"{2**63}", "", "2095000000000"]


@pytest.mark.parametrize("number", NUMBERS, ids=[number[:20] for number in NUMBERS])
async def test_no_stored_number_stops_an_agent_or_makes_its_messages_unfit(
    agents: House, client: Redis, number: str
) -> None:
    await client.set(KEYS.agent.fence, number)
    await client.hset(KEYS.header, mapping={"epoch": number, "version": number})
    await client.hset(KEYS.agent.seen, mapping={"distributor:d": f"{number}:1:1:{number}", number: "1:2:3:4", "x": ":"})
    await client.hset(CELL.agent("k").seen, mapping={"worker:w": f"{number}:1:1:{number}", "coordinator:k": number})
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    submitter = await agents.client("c")

    assert await submitter.value.aio(await submitter.submit.aio(add("sum", 1, 2)), 20) == 3

    assert 0 < int(await client.get(KEYS.agent.fence)) < 2_000_000_000_000


@pytest.mark.parametrize("name", ["header", "seen", "inbox", "quarantine", "heartbeats", "history"])
async def test_keys_of_another_type_are_mended_by_whose_they_are(agents: House, client: Redis, name: str) -> None:
    """Once one of them is used; those that nobody uses hurt nobody."""
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    submitter = await agents.client()
    keys = [key for key in (getattr(KEYS.agent, name), getattr(CELL.agent("k"), name)) if key]

    async with client.pipeline() as at_once:  # otherwise an agent may write in between
        at_once.delete(*keys)
        for key in keys:
            at_once.rpush(key, "somebody else's")
        await at_once.execute()
    if name == "inbox":
        await until_async(lambda: are_mended(client, keys), "messages can be posted again")
    else:
        await post(client, KEYS.inbox, [{b"no": b"message"}])
        await post(client, CELL.inbox, [{b"no": b"message"}])
    assert await submitter.value.aio(await submitter.submit.aio(add("sum", 1, 2)), 30) == 3

    await until_async(lambda: are_mended(client, keys), "all are as they were")


@pytest.mark.parametrize("key", [KEYS.tasks, KEYS.submissions, CELL.actual, ACTIVE])
async def test_what_another_application_keeps_under_a_name_of_ours_is_named_and_left_alone_until_it_is_gone(
    agents: House, client: Redis, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    await client.xadd(key, {"the": "irs"})
    starting = [asyncio.create_task(start()) for start in (agents.coordinator, agents.distributor)]

    await until_async(lambda: f"waits: '{key}' is of a type that none of our agents" in caplog.text, "it is named")
    assert "RENAME or DEL it" in caplog.text
    assert await client.type(key) == b"stream"
    await client.rename(key, "theirs")

    await asyncio.gather(*starting)
    await agents.worker()
    submitter = await agents.client()
    assert await submitter.value.aio(await submitter.submit.aio(add("sum", 1, 2)), 30) == 3


@pytest.mark.parametrize("key", [KEYS.tasks, KEYS.open, KEYS.ended, CELL.wanted])
async def test_what_is_put_in_the_place_of_a_key_while_agents_work_is_named_and_rejects_no_message(
    agents: House, client: Redis, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    submitter = await agents.client()
    assert await submitter.value.aio(await submitter.submit.aio(add("before", 1, 2)), 30) == 3
    await client.delete(key)
    await client.set(key, "theirs")

    submitting = asyncio.create_task(submitter.submit.aio(add("sum", 1, 2)))
    await until_async(lambda: f"'{key}' is of a type" in caplog.text, "it is named")
    await client.delete(key)

    assert await submitter.value.aio(await submitting, 30) == 3
    assert not await client.exists(KEYS.agent.quarantine, CELL.agent("k").quarantine)
    assert "a step failed" not in caplog.text


async def test_a_client_waits_for_an_inbox_that_its_coordinator_puts_right(agents: House, client: Redis) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    submitter = await agents.client()
    await client.delete(KEYS.inbox)
    await client.set(KEYS.inbox, "theirs")

    assert await submitter.value.aio(await submitter.submit.aio(add("sum", 1, 2)), 30) == 3


@pytest.mark.parametrize(("name", "secret"), [("d", b"theirs"), ("e", SECRET)], ids=["forged", "of another"])
async def test_what_is_no_heartbeat_of_a_distributor_tells_nothing_of_what_it_has(
    agents: House, client: Redis, name: str, secret: bytes
) -> None:
    coordinator = await agents.coordinator()
    chain = (K, Address(Role.DISTRIBUTOR, name))
    packed = Outbox(chain, KeyRing.from_secret(secret, chain)).beat(K, {"action": Action.BEAT.value, "beat": 1}, 1, 0)
    await client.hset(KEYS.heartbeats, "d", packed)

    with pytest.raises(PeerError):
        await coordinator._coordinator_behaviour._audit(Audit("d", probe_ms=0))


async def are_mended(client: Redis, keys: list[str]) -> bool:
    return b"list" not in [await client.type(key) for key in keys]


async def test_an_agent_of_no_name_in_the_list_of_agents_does_not_keep_the_others_in_it(
    agents: House, client: Redis
) -> None:
    coordinator = await agents.coordinator()
    gone = f"{coordinator.loop.setup.me}/distributor:d/worker:gone"
    await client.sadd(ACTIVE, gone, b"\xff", "king:x/y", "")

    coordinator._coordinator_behaviour._forget_due_s = 0
    await coordinator._coordinator_behaviour._forget_workers()

    assert not await client.sismember(ACTIVE, gone)


# ---- what is no message of anybody ----

FLOOD = 20_000


async def test_of_a_flood_at_most_so_much_is_kept_as_evidence_in_a_commit_and_all_of_it_is_counted(
    redis_config: RedisConfig, client: Redis
) -> None:
    good = await speaker(client, C, K).signed(Action.SUBMIT_TASK, tasks=[])
    await post(client, KEYS.inbox, [{**fields_of(good), b"sig": b"%064d" % number} for number in range(3000)])
    await speaker(client, C, K).post(good)
    wire = Wire(redis_config)
    inbox = coordinators_inbox(wire)

    reads, taken = 0, list[Entry]()
    while not taken:
        taken = await inbox.read()
        reads += 1
    commands = inbox.settle(now_ms=0)
    await wire.close()

    assert reads < 20  # not sixteen at a time
    assert [command[0] for command in commands].count("XADD") == 200
    assert ("HINCRBY", KEYS.header, "rejected:bad_signature", 3000) in commands


async def test_a_reader_that_is_not_allowed_to_commit_reads_no_further_than_it_can_remember(
    redis_config: RedisConfig, client: Redis
) -> None:
    await post(client, KEYS.inbox, [{b"no": b"message"}] * 6000)
    wire = Wire(redis_config)
    inbox = coordinators_inbox(wire)

    while not inbox.full:
        await inbox.read()
    await wire.close()

    assert inbox.unsettled < 5000


async def test_what_was_rejected_on_reading_is_deleted_though_a_step_fails_meanwhile(
    redis_config: RedisConfig, client: Redis
) -> None:
    await post(client, KEYS.inbox, [{b"no": b"message"}])
    wire = Wire(redis_config)
    inbox = coordinators_inbox(wire)
    assert await inbox.read() == []

    inbox.rewind([])
    await wire.exchange(inbox.settle(now_ms=0))
    await wire.close()

    assert await client.xlen(KEYS.inbox) == 0
    assert await client.hget(KEYS.header, "rejected:malformed") == b"1"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_honest_client_is_served_behind_20_000_messages_of_nobody(
    agents: House, redis_server: RedisServer, client: Redis, kind: str
) -> None:
    coordinator = await agents.coordinator()
    submitter = await agents.client("honest")
    await submitter.submit.aio(Task(task_id="before", task_type="x"))
    flood(str(redis_server.socket), redis_server.password, KEYS.inbox, kind, FLOOD, rate=1e9)

    await submitter.submit.aio(Task(task_id="honest", task_type="x"), timeout_s=60)

    assert await client.hexists(KEYS.tasks, "honest")
    assert sum(coordinator.loop.inbox.rejected.values()) >= FLOOD
    assert await client.xlen(KEYS.agent.quarantine) < 1200


# ---- logs ----


def test_a_line_about_a_rejected_message_has_nothing_of_its_text_and_comes_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    log = RejectionLog("message", "message_rejected")
    for number in range(1000):
        log.note("bad_signature", b"client:evil\nFORGED LINE", b"1-%d" % number)
        log.note("malformed", b"client:c", b"1-1")

    assert [record.getMessage() for record in caplog.records] == [
        "message rejected (bad_signature), which names nobody as its sender. Cure, if it is one of yours:"
        f" {CURES['bad_signature']}",
        "message rejected (malformed), which names client:c as its sender",
    ]


def test_a_sender_that_goes_on_is_named_once_and_another_one_after_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejection_log, "LINE_EVERY_S", 0.0)
    log = RejectionLog("heartbeat", "beat_rejected")
    for sender in (b"worker:w", b"worker:w", b"worker:v", b"worker:w", b"worker:v"):
        log.note("unknown_key", sender)

    lines = [record.getMessage() for record in caplog.records]
    assert ["worker:w" in lines[0], "worker:v" in lines[1], len(lines)] == [True, True, 2]
    assert all("agents key" in line for line in lines)


# ---- operators' tools ----

COMMANDS = [
    "status", "doctor", "dlq list", "dlq list --quarantined", "dlq show dead", "tasks list", "tasks show open",
    "state show d", "state history d",
]  # fmt: skip
NEVER_FAIL = frozenset(COMMANDS) - {"doctor", "dlq show dead", "tasks show open", "state history d"}
VALUES = {
    "no text": b"\xff\x00", "null": b"null", "an object": b'{"a": 1}',
    "a time without zone": b'{"task_type": "x", "created_at": "2026-01-01T00:00:00"}',
}  # fmt: skip


async def a_life(redis: RedisConfig) -> None:
    """Leaves an open task, one in a cell, a dead letter, a rejected message and what agents say of themselves."""
    async with house(redis) as agents:
        coordinator = await agents.coordinator()
        await agents.distributor()
        await agents.worker()
        submitter = await agents.client()
        await submitter.submit.aio(Task(task_id="dead", task_type="slow"))
        await submitter.result.aio("dead", 20)
        await submitter.submit_many.aio([Task(task_id="open", task_type="of-nobody"), wait("held")])
        await until_async(lambda: agents.runs["held"], "one is in the cell")
        async with reading(redis) as writer:
            await writer.run(("XADD", KEYS.inbox, "*", "no", "message"))
        await until_async(lambda: coordinator.loop.inbox.rejected, "one message is rejected")
        await until_async(lambda: coordinator.loop.inbox.unsettled == 0, "and put aside")
        copied = await coordinator.loop.committer.run(("GET", CELL.lease), ("HGETALL", KEYS.heartbeats))
    async with reading(redis) as writer:
        await writer.run(("SET", CELL.lease, copied[0]), ("SET", KEYS.agent.lease, copied[0]))
        await writer.run(("HSET", KEYS.heartbeats, *copied[1]), ("ZADD", CELL.agent("k").standbys, 1, "1@h"))
        await writer.run(("SADD", ACTIVE, "coordinator:k/distributor:d/worker:w"))


@pytest.fixture
def said(redis_server: RedisServer, redis_config: RedisConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """What a command prints after a life of the hierarchy. Fails the test when it ends with an error that is no answer
    to who asked."""
    asyncio.run(a_life(redis_config))
    for name, value in {**redis_server.environment, "COORDINATOR_ID": "k", "A2A_TOKEN_SECRET": SECRET.decode()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(logging.getLogger("core.client.waiting"), "disabled", False)

    def run(command: str) -> str:
        done = CliRunner().invoke(app, command.split())
        if command in NEVER_FAIL:
            assert done.exception is None, (command, done.exception)
        assert isinstance(done.exception, SystemExit | AgentSystemError | None), (command, done.exception)
        return str(done.output)

    return run


def test_one_stored_value_that_none_of_ours_wrote_makes_no_command_fail(
    said: Callable[[str], str], redis_server: RedisServer
) -> None:
    with redis_server.connect() as client:
        stored: dict[bytes, dict[bytes, bytes]] = {
            key: client.hgetall(key) for key in client.keys("*") if client.type(key) == b"hash"
        }
        for name, value in VALUES.items():
            for key, fields in stored.items():
                client.hset(key, mapping={**dict.fromkeys(fields, value), b"\xff": value})
            for key in client.keys("*:lease"):
                client.set(key, value)
            client.zadd(KEYS.open, {b"\xff": 1})
            client.sadd(ACTIVE, b"\xff", value)
            for stream in (KEYS.agent.quarantine, CELL.history):
                client.xadd(stream, {b"\xff": value})
            answers = {command: said(command) for command in COMMANDS}
            assert "cannot be read" in answers["status"], name
            assert "cannot be read" in answers["tasks list"], name
            assert "stored values" in answers["doctor"], name


@pytest.mark.parametrize("first", [0, 1])
def test_keys_of_another_type_make_no_command_fail(
    said: Callable[[str], str], redis_server: RedisServer, first: int
) -> None:
    with redis_server.connect() as client:
        for key in sorted(client.keys("*"))[first::2]:
            client.delete(key)
            client.rpush(key, "x")

    for command in COMMANDS:
        said(command)


def test_a_value_that_is_too_large_is_named_and_its_neighbours_are_shown(
    said: Callable[[str], str], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 1 * MIB)
    with redis_server.connect() as client:
        client.hset(KEYS.tasks, "large", b"x" * 2 * MIB)
        client.zadd(KEYS.dead, {"large": 5e12})
        client.hset(CELL.heartbeats, "large", b"x" * 2 * MIB)

    shown = said("dlq list")

    assert "cannot be read" in next(line for line in shown.splitlines() if line.startswith("large"))
    assert any(line.startswith("dead") for line in shown.splitlines())
    assert CELL.heartbeats in said("status")
