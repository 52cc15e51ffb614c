"""What a client sees of an outage: it waits as long as it was asked to, goes on by itself, and is told what is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

import core.redis_client
from core.client import agent_client as client_module
from core.client import look_up, requests, waiting
from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.errors import ServerRefused, TaskLost, TaskTimeout, TransportDown, UnknownTask
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address, Role
from core.runtime import outbox
from core.tasks import Task
from tests.integration.hierarchy import House, add, house, runs, signed_as, wait
from tests.integration.speaker import Redis
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until_async

KEYS = CoordinatorKeys("k")


@pytest.fixture
async def full(redis_config: RedisConfig) -> AsyncIterator[House]:
    """One coordinator, one distributor, one worker."""
    async with house(redis_config) as agents:
        await agents.coordinator()
        await agents.distributor()
        await agents.worker()
        yield agents


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for what it was not told of often, so that a test need not wait."""
    for module in (client_module, look_up):
        monkeypatch.setattr(module, "LOOK_UP_S", 0.3)
    monkeypatch.setattr(requests, "ANSWER_S", 0.3)


@pytest.fixture
def lasting_server() -> Iterator[RedisServer]:
    """What it has acknowledged is there after a crash."""
    with RedisServer(bundled_server(), append_only=True) as server:
        yield server


def reached(server: RedisServer) -> RedisConfig:
    return RedisConfig(url=server.url, password=server.password, mode="external")


def said(caplog: pytest.LogCaptureFixture, action: str, logger: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "action", "") == action and record.name == logger
    ]


# ---- Redis is away ----


async def test_a_client_that_finds_no_redis_is_told_at_once(
    redis_config: RedisConfig, redis_server: RedisServer
) -> None:
    redis_server.kill()
    me = AgentClient(redis_config, signed_as("client"), "k")

    async with asyncio.timeout(2):
        with pytest.raises(TransportDown, match="does not answer"):
            await me.open.aio()


async def test_calls_made_during_an_outage_wait_for_its_end_and_log_one_line_each_way(
    lasting_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with house(reached(lasting_server)) as agents:
        await agents.coordinator()
        await agents.distributor()
        await agents.worker()
        me = await agents.client()
        await me.submit.aio(wait("before"))
        await runs(agents, "before")
        lasting_server.kill()
        ends = asyncio.create_task(me.result.aio("before", timeout_s=60))
        asked = asyncio.create_task(me.submit.aio(add("t", 1, 2), timeout_s=60))
        many = asyncio.create_task(me.submit_many.aio([add(f"m{n}", n) for n in range(1000)], timeout_s=60))
        await until_async(lambda: said(caplog, "transport_down", "core.client.agent_client"), "the client has noticed")
        agents.door("before").set()

        lasting_server.start()

        assert await asked == "t"
        assert len(await many) == 1000
        assert (await ends).status == "completed"
        assert await me.value.aio("t", timeout_s=60) == 3
        assert len(said(caplog, "transport_down", "core.client.agent_client")) == 1
        assert len(said(caplog, "transport_up", "core.client.agent_client")) == 1


async def test_a_call_that_has_waited_as_long_as_it_was_asked_to_says_that_asking_again_is_safe(
    full: House, redis_server: RedisServer
) -> None:
    me = await full.client()
    await me.submit.aio(wait("t"))
    redis_server.kill()

    with pytest.raises(TransportDown, match=r"Tried for 0\.5 s\. Asking again for the same ids is safe"):
        await me.submit.aio(add("u", 1), timeout_s=0.5)
    with pytest.raises(TaskTimeout, match="Redis is away"):
        await me.result.aio("t", timeout_s=0.5)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "no memory left. Raise its maxmemory"),
        (("REPLICAOF", "127.0.0.1", "1"), "a replica, which only reads. Set REDIS_URL"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "fewer replicas than its min-replicas-to-write"),
    ],
)
async def test_a_server_that_takes_nothing_is_told_at_once_with_the_cure(
    redis_config: RedisConfig, client: Redis, command: tuple[str, ...], text: str
) -> None:
    async with AgentClient(redis_config, signed_as("client"), "k") as me:
        try:
            await client.execute_command(*command)
            async with asyncio.timeout(5):
                with pytest.raises(ServerRefused, match=text):
                    await me.submit.aio(add("t", 1))
        finally:
            await client.execute_command("REPLICAOF", "NO", "ONE")
            await client.config_set("maxmemory", "0")
            await client.config_set("min-replicas-to-write", "0")


async def test_what_one_call_has_not_had_answered_is_bounded(
    redis_config: RedisConfig, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a coordinator that refuses would be heard when its inbox has filled the server."""
    monkeypatch.setattr(requests, "MAX_UNANSWERED_BYTES", 300_000)
    async with AgentClient(redis_config, signed_as("client"), "k") as me:
        asked = asyncio.create_task(me.submit_many.aio([add(f"t{n}", *range(5000)) for n in range(100)], timeout_s=60))
        await until_async(lambda: client.xlen(KEYS.inbox), "the first messages are there")

        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

        assert await client.memory_usage(KEYS.inbox) < 3_000_000


def test_a_command_that_nobody_answers_names_the_id_and_how_to_ask_again(redis_server: RedisServer) -> None:
    redis_server.clean()
    done = subprocess.run(
        [sys.executable, "-m", "core.cli", "submit", "echo", "1", "--id", "t", "--timeout", "0.5"],
        env={**os.environ, **redis_server.environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (75, "")
    assert "--id t submits it again, as the same task" in done.stderr
    assert "agents tasks wait t" in done.stderr
    assert "did not answer" in done.stderr


# ---- what is lost, and what nobody can do ----


@pytest.mark.usefixtures("impatient")
@pytest.mark.matrix(12)
async def test_who_waits_for_a_task_that_a_server_has_lost_is_told_and_submits_it_again(
    full: House, redis_server: RedisServer
) -> None:
    me = await full.client()
    await me.submit_many.aio([wait("a"), wait("b")])
    await runs(full, "b")
    redis_server.kill()
    redis_server.start()  # without an append-only file: empty

    with pytest.raises(TaskLost, match="Submit it again with the same id") as lost:
        [task async for task in me.as_completed(["a", "b"], timeout_s=60)]
    assert set(lost.value.task_ids) == {"a", "b"}

    for door in ("a", "b"):
        full.door(door).set()
    assert await me.submit_many.aio([wait("a"), wait("b")]) == ["a", "b"]
    assert {task.task_id async for task in me.as_completed(["a", "b"], timeout_s=30)} == {"a", "b"}


@pytest.mark.matrix(12)
async def test_who_asks_again_and_again_for_a_short_time_is_told_as_well_that_a_task_is_lost(
    full: House, redis_server: RedisServer
) -> None:
    me = await full.client()
    await me.submit.aio(wait("a"))
    await runs(full, "a")
    redis_server.kill()
    redis_server.start()

    async def told() -> bool:
        try:
            await me.result.aio("a", timeout_s=0.5)
        except TaskLost:
            return True
        except TaskTimeout:
            pass
        return False

    await until_async(told, "it is told that the task is lost", timeout_s=60)


@pytest.mark.usefixtures("impatient")
async def test_a_task_whose_record_an_operator_deleted_is_not_lost_while_somebody_works_on_it(
    full: House, client: Redis
) -> None:
    me = await full.client()
    await me.submit.aio(wait("t", 7))
    await runs(full, "t")
    await client.hdel(KEYS.tasks, "t")

    with pytest.raises(TaskTimeout):
        await me.result.aio("t", timeout_s=2)

    full.door("t").set()
    assert await me.value.aio("t", timeout_s=20) == 7


@pytest.mark.usefixtures("impatient")
async def test_a_submission_that_was_given_up_is_unknown_if_it_never_arrived_and_waited_for_if_it_did(
    redis_config: RedisConfig, client: Redis
) -> None:
    async with house(redis_config) as agents:
        me = await agents.client()
        for task_id in ("kept", "gone"):
            with pytest.raises(TaskTimeout):
                await me.submit.aio(add(task_id, 1), timeout_s=0.1)
            if task_id == "kept":
                [[kept, _]] = await client.xrange(KEYS.inbox)
        for entry, _ in await client.xrange(KEYS.inbox, min=b"(" + kept):
            await client.xdel(KEYS.inbox, entry)
        waiting_for = asyncio.create_task(me.result.aio("kept", timeout_s=30))

        await agents.coordinator()
        await agents.distributor()
        await agents.worker()

        assert (await waiting_for).result == 1
        with pytest.raises(UnknownTask):
            await me.result.aio("gone", timeout_s=30)


@pytest.mark.usefixtures("impatient")
async def test_the_end_of_a_task_can_be_asked_for_while_no_coordinator_is_up(
    redis_config: RedisConfig,
) -> None:
    async with house(redis_config) as agents:
        coordinator = await agents.coordinator()
        await agents.distributor()
        await agents.worker()
        me = await agents.client()
        await me.value.aio(await me.submit.aio(add("t", 1, 2)), timeout_s=20)
        await coordinator.close.aio()
        somebody = await agents.client()

        assert await somebody.value.aio("t", timeout_s=20) == 3


@pytest.mark.usefixtures("impatient")
async def test_a_program_that_waits_for_what_nobody_can_run_is_told_once_what_to_do(
    full: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.1)
    me = await full.client()
    await me.submit_many.aio([Task(task_id=f"t{n}", task_type="nobody-knows") for n in range(3)])

    ended = await asyncio.gather(*(me.result.aio(f"t{n}", timeout_s=8) for n in range(3)), return_exceptions=True)

    assert [type(error) for error in ended] == [TaskTimeout] * 3
    [line] = said(caplog, "task_waits", "core.client.waiting")
    assert "no worker knows task type 'nobody-knows'; known: add," in line


@pytest.mark.usefixtures("impatient")
async def test_a_program_that_waits_for_a_task_that_runs_is_not_bothered(
    full: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.1)
    me = await full.client()
    await me.submit.aio(wait("t"))
    await runs(full, "t")

    with pytest.raises(TaskTimeout):
        await me.result.aio("t", timeout_s=2)

    assert said(caplog, "task_waits", "core.client.waiting") == []


# ---- many clients, and slow ones ----


@pytest.mark.usefixtures("impatient")
@pytest.mark.matrix(49)
async def test_a_client_that_stops_reading_costs_a_bounded_stream_disturbs_nobody_and_finds_its_results_later(
    full: House, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller here: 3 replies are kept instead of 20,000, and there are 12 at least: 6 MB of results."""
    monkeypatch.setattr(outbox, "REPLIES_KEPT", 3)
    slow, other = await full.client("slow~1"), await full.client()
    tasks = [wait(f"s{n}", f"{n:03}" * 10_000) for n in range(200)]
    await slow.submit_many.aio(tasks)
    await slow.close.aio()
    for task in tasks:
        full.door(task.task_id).set()

    assert [await other.value.aio(await other.submit.aio(add(f"o{n}", n)), timeout_s=30) for n in range(20)] == [
        *range(20)
    ]
    async with AgentClient(full.redis, signed_as("o"), "k", "operator:o") as somebody:
        assert (
            len([task async for task in somebody.as_completed([task.task_id for task in tasks], timeout_s=30)]) == 200
        )
    stream = KEYS.replies(Address(Role.CLIENT, "slow~1"))
    assert await client.xlen(stream) <= 4  # trimmed by whole nodes
    assert 0 < await client.ttl(stream) <= outbox.REPLIES_TTL_S
    again = await full.client("slow~1")
    results = {
        task.task_id: task.result async for task in again.as_completed([task.task_id for task in tasks], timeout_s=30)
    }
    assert results == {task.task_id: task.payload for task in tasks}


@pytest.mark.matrix(47)
async def test_500_clients_are_all_back_within_5_s_of_a_restart_and_none_has_connected_more_than_10_times(
    lasting_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of 500 programs' connections in one process and one event loop: each client has two."""
    tries: Counter[int] = Counter()
    connect = core.redis_client._open

    async def counted(config: RedisConfig) -> core.redis_client._Link:
        tries[id(config)] += 1
        return await connect(config)

    redis = reached(lasting_server)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AgentClient(redis.model_copy(), signed_as("client"), "k"))
            for _ in range(500)
        ]
        with lasting_server.connect() as operator:

            def listening() -> int:
                return sum(connection["cmd"] == "xread" for connection in operator.client_list())

            await until_async(lambda: listening() == 500, "all clients listen for replies")
        monkeypatch.setattr(core.redis_client, "_open", counted)
        lasting_server.kill()
        await until_async(lambda: len(tries) == 500, "all clients have noticed")

        lasting_server.start()

        with lasting_server.connect() as operator:
            await until_async(lambda: listening() == 500, "all clients listen again", timeout_s=5)
        assert max(tries.values()) <= 10
        assert len(clients) == 500
