"""Who is let in: servers that agents work on, and tasks that a coordinator takes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from coordinator.admission import BESIDE_BYTES, COPIES, note_memory, refusal
from coordinator.state import CoordinatorState
from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.errors import ConfigError, TaskRefused
from core.operations.checkup import check_all, check_server
from core.operations.reader import reading
from core.server_info import Memory
from tests.builders import a_task
from tests.integration.hierarchy import FAST, house, wait
from tests.integration.speaker import Redis
from tests.redis_server import RedisServer
from tests.tiers import ForkedTiers
from tests.waiting import until_async

# ---- servers ----


@pytest.mark.matrix(42)
@pytest.mark.parametrize("role", ["coordinator", "distributor", "worker"])
async def test_no_agent_starts_on_a_server_that_may_delete_tasks(
    redis_config: RedisConfig, processes: Processes, client: Redis, tmp_path: Path, role: str
) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with ForkedTiers(processes, redis_config, tmp_path) as tiers:
            tiers.start(role, "a")
            assert tiers.exit_code("a") == 78
            assert "maxmemory-policy is allkeys-lru: the server may delete tasks" in tiers.log("a")
            assert "config set maxmemory-policy noeviction" in tiers.log("a")
            assert await client.dbsize() == 0
    finally:
        await client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.matrix(42)
@pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-random", "volatile-ttl"])
async def test_every_policy_but_noeviction_is_refused_with_the_cure(
    redis_config: RedisConfig, client: Redis, policy: str
) -> None:
    await client.config_set("maxmemory-policy", policy)
    try:
        with pytest.raises(ConfigError, match=f"{policy}.*noeviction"):
            await checked(redis_config)
    finally:
        await client.config_set("maxmemory-policy", "noeviction")


class ClusterNode(RedisServer):
    def _settings(self) -> str:
        return f"{super()._settings()}cluster-enabled yes\n"


async def test_no_agent_starts_on_a_server_in_cluster_mode_and_the_doctor_says_why(
    redis_server: RedisServer, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ClusterNode(redis_server.binary) as server:
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        with ForkedTiers(processes, redis, tmp_path) as tiers:
            tiers.start("coordinator", "a")
            assert tiers.exit_code("a") == 78
            assert "in cluster mode" in tiers.log("a")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        found = [finding async for finding in check_all()]

    assert [(finding.check, finding.exit_code) for finding in found if finding.state == "fail"] == [("cluster", 78)]


@pytest.mark.parametrize(
    ("append_only", "save", "warning"),
    [
        ("no", "", "writes nothing to disk"),
        ("no", "3600 1", "loses what came after the last one"),
        ("yes", "", None),
    ],
)
async def test_a_server_that_forgets_is_worth_one_warning_that_names_the_cure(
    redis_config: RedisConfig,
    client: Redis,
    caplog: pytest.LogCaptureFixture,
    append_only: str,
    save: str,
    warning: str,
) -> None:
    await client.config_set("appendonly", append_only)
    await client.config_set("save", save)
    try:
        await checked(redis_config)
    finally:
        await client.config_set("save", "")
        await client.config_set("appendonly", "no")

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (warning is not None)
    assert all(warning in message and "config set appendonly yes" in message for message in warnings)


async def test_a_server_that_lets_nobody_ask_is_taken_as_it_is_with_a_warning(
    redis_config: RedisConfig, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await client.execute_command("ACL", "SETUSER", "agent", "on", ">secret", "~*", "&*", "+@all", "-info", "-config")
    try:
        own = redis_config.model_copy(update={"username": "agent", "password": "secret"})
        async with house(own) as agents:
            await agents.coordinator()
            await agents.distributor()
            await agents.worker()
            me = await agents.client()
            agents.door("t").set()
            assert await me.value.aio(await me.submit.aio(wait("t", 7)), timeout_s=20) == 7
    finally:
        await client.execute_command("ACL", "DELUSER", "agent")

    unchecked = [
        record.getMessage() for record in caplog.records if getattr(record, "action", "") == "server_unchecked"
    ]
    assert len(unchecked) == 3
    assert "ACL SETUSER NAME +info" in unchecked[0]


async def checked(redis: RedisConfig) -> None:
    async with reading(redis) as reader:
        await check_server(reader)


# ---- tasks ----


def full_to(share: float, limit: int = 1_000_000) -> CoordinatorState:
    state = CoordinatorState("c")
    note_memory(state, Memory(int(share * limit), limit))
    return state


def test_above_the_high_water_mark_a_task_is_refused_and_told_why() -> None:
    why = refusal(full_to(0.85), a_task())

    assert "85% of its maxmemory" in why
    assert "MEMORY_HIGH_WATER" in why


def test_a_server_without_a_limit_or_that_does_not_tell_has_room() -> None:
    assert refusal(CoordinatorState("c"), a_task()) == ""
    assert refusal(full_to(1.0, limit=0), a_task()) == ""


def test_what_was_admitted_counts_until_the_server_has_counted_it() -> None:
    state = full_to(0.7)
    needed = COPIES * len(a_task().to_json()) + BESIDE_BYTES
    room = int(0.1 * 1_000_000)

    admitted = [refusal(state, a_task(f"{n:03}")) for n in range(100)].count("")
    assert admitted * needed <= room < (admitted + 2) * needed

    note_memory(state, state.memory)  # said before the last of them were written
    assert refusal(state, a_task()) != ""
    note_memory(state, state.memory)
    assert refusal(state, a_task()) == ""


@pytest.mark.matrix(40)
async def test_a_server_that_fills_up_has_new_tasks_refused_and_finishes_every_accepted_one(
    redis_config: RedisConfig, client: Redis
) -> None:
    """maxmemory = used + 1 MiB, and three clients that keep submitting until nothing is let in any more."""
    async with house(redis_config) as agents:
        await agents.coordinator()
        await agents.distributor()
        await agents.worker()
        clients = [await agents.client() for _ in range(3)]
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", used + 1024 * 1024)
        try:
            outcomes = await asyncio.gather(
                *(fill(submitter, name) for submitter, name in zip(clients, "abc", strict=True))
            )
            accepted = [task_id for ids, _ in outcomes for task_id in ids]
            for task_id in accepted:
                agents.door(task_id).set()

            ended = [task async for task in clients[0].as_completed(accepted, timeout_s=30)]

            assert len(accepted) >= 20
            assert {(task.task_id, task.status) for task in ended} == {(task_id, "completed") for task_id in accepted}
            assert all("MEMORY_HIGH_WATER" in why for _, whys in outcomes for why in whys)
            assert (await client.info("memory"))["used_memory"] < used + 1024 * 1024
        finally:
            await client.config_set("maxmemory", 0)

        async def accepted_again() -> bool:
            try:
                return bool(await clients[0].submit.aio(wait("z")))
            except TaskRefused:
                return False

        await until_async(accepted_again, "with room again, tasks are let in")


async def fill(me: AgentClient, name: str) -> tuple[list[str], list[str]]:
    """Submits until ten in a row are refused: the accepted ids, and the reasons of the refusals."""
    accepted: list[str] = []
    reasons: list[str] = []
    refused = 0
    while refused < 10:
        task = wait(f"{name}{len(accepted)}-{len(reasons)}", "x" * 1000)
        try:
            accepted.append(await me.submit.aio(task))
            refused = 0
        except TaskRefused as error:
            reasons.append(error.reason)
            refused += 1
    return accepted, reasons


@pytest.mark.matrix(40)
async def test_children_of_an_accepted_task_are_let_in_above_the_mark(redis_config: RedisConfig, client: Redis) -> None:
    async with house(redis_config) as agents:
        coordinator = await agents.coordinator(config=FAST.model_copy(update={"memory_high_water": 0.01}))
        await agents.distributor()
        me = await agents.client()
        await me.submit.aio(a_task("tree", task_type="tree", payload=2))
        await client.config_set("maxmemory", "100mb")
        try:
            await until_async(lambda: coordinator.state.memory.limit > 0, "the coordinator has looked")
            with pytest.raises(TaskRefused, match="MEMORY_HIGH_WATER"):
                await me.submit.aio(wait("late"))

            await agents.worker()

            assert await me.value.aio("tree", timeout_s=20) == 4
        finally:
            await client.config_set("maxmemory", "0")
