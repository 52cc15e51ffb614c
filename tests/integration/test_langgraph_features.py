"""What holds here of what LangGraph has, as docs/agents.md lists it: rows that no other test is about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from core.agent_run import RunOptions
from core.chaos.processes import Processes
from core.checkpoints.redis_saver import RedisSaver
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.tasks import Task
from tests.executor_bench import INTEGRATION
from tests.redis_server import RedisServer
from tests.tiers import SECRET, ForkedTiers
from tests.waiting import until

AGENTS = str(INTEGRATION / "feature_user_graphs.py")

# What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")


class Fleet:
    """One worker with one host, and a client."""

    def __init__(self, redis: RedisConfig, client: AgentClient, folder: Path) -> None:
        self.redis, self.client, self.folder = redis, client, folder

    def ended(self, task_type: str, run: RunOptions | None = None) -> Task:
        task = Task(task_type=task_type, payload={}, backoff_s=0.01, run=run)
        return self.client.result(self.client.submit(task), 60)

    def stored(self, thread_id: str) -> Any:
        """What is stored of `done`; None: nothing at all."""
        with RedisSaver(self.redis) as saver:
            found = saver.get_tuple({"configurable": {"thread_id": thread_id}})
        return None if found is None else found.checkpoint["channel_values"].get("done")


@pytest.fixture(scope="module")
def fleet(redis_server: RedisServer, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    redis_server.clean()
    redis = RedisConfig(url=redis_server.url, password=redis_server.password, mode="external")
    folder = tmp_path_factory.mktemp("fleet")
    with ForkedTiers(processes, redis, folder, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1") as tiers:
        tiers.start("coordinator", "coordinator-1")
        tiers.start("distributor", "distributor-1")
        tiers.start("worker", "w1", "--import", AGENTS)
        with AgentClient(redis, A2AConfig(agent_id="c", token_secret=SECRET), "coordinator-1", "c") as client:
            yield Fleet(redis, client, folder)


def test_a_node_is_tried_again_within_its_attempt_as_its_retry_policy_says(fleet: Fleet) -> None:
    ended = fleet.ended("fails_twice")
    assert (ended.result, ended.attempt) == ({"done": [3]}, 1)

    ended = fleet.ended("fails")
    assert [(error.type, error.message) for error in ended.errors] == [
        ("ConnectionError", "try 2"),
        ("ConnectionError", "try 4"),
    ]


def test_a_node_that_exceeds_its_timeout_is_tried_again_or_fails_the_attempt(fleet: Fleet) -> None:
    assert fleet.ended("hangs_once").result == {"done": [2]}

    ended = fleet.ended("hangs")
    assert ended.error is not None
    assert (ended.status, ended.error.type) == ("failed", "NodeTimeoutError")


def test_what_is_sent_to_a_node_is_done_at_the_same_time_and_reduced_in_its_order(fleet: Fleet) -> None:
    assert fleet.ended("maps").result == {"done": [0, 1, 4, 9, 14]}


def test_a_deferred_node_runs_once_after_branches_of_any_length(fleet: Fleet) -> None:
    assert fleet.ended("defers").result == {"done": ["long", "short", "longer", "last"]}


@pytest.mark.parametrize(("durability", "meanwhile"), [("sync", ["first"]), ("async", ["first"]), ("exit", None)])
def test_a_run_is_stored_after_each_step_or_at_its_end_as_its_client_says(
    fleet: Fleet, durability: Literal["sync", "async", "exit"], meanwhile: list[str] | None
) -> None:
    run = RunOptions(thread_id=f"thread {durability}", durability=durability)
    task_id = fleet.client.submit(Task(task_id=f"stays-{durability}", task_type="stays", payload={}, run=run))
    until((fleet.folder / f"{task_id}.waits").exists, "the second node runs")

    until(lambda: fleet.stored(f"thread {durability}") == meanwhile, f"{meanwhile} is stored")
    (fleet.folder / f"{task_id}.go").touch()
    assert fleet.client.value(task_id, 60) == {"done": ["first", "second"]}
    assert fleet.stored(f"thread {durability}") == ["first", "second"]


def test_a_state_that_is_too_large_for_a_result_is_stored_also_at_the_end_of_a_run(fleet: Fleet) -> None:
    ended = fleet.ended("swells", RunOptions(durability="exit"))
    assert fleet.stored(ended.result["thread_id"]) == ["x" * 300_000]


def test_a_graphs_own_checkpointer_is_not_used(fleet: Fleet) -> None:
    assert fleet.ended("has_own_saver", RunOptions(thread_id="own")).result == {"done": ["first", 0]}
    assert fleet.stored("own") == ["first", 0]
