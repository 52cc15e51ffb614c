"""A hierarchy in one process: how soon a test has one, and how many tasks it does, on memory and on Redis."""

from __future__ import annotations

import time
from typing import Any

from core.config.settings import A2AConfig, AgentConfig, RedisConfig
from core.event_types import EventLevel
from core.local.hierarchy import LocalHierarchy
from core.tasks import Task
from tests.bench.noop import TASK_TYPE
from tests.redis_server import RedisServer, bundled_server

__all__ = ["local"]

TASKS, WARM_UP, BATCH = 2_000, 200, 500
SECRET = "a secret of this benchmark alone"


def local(repeats: int) -> dict[str, list[float]]:
    """By what is measured: one figure of each repetition, ms or tasks a second."""
    found: dict[str, list[float]] = {"start_ms": [], "task_ms": [], "memory": [], "redis": []}
    for _ in range(repeats):
        for name, figure in _of_a_test().items():
            found[name].append(figure)
        found["memory"].append(_tasks_per_s(LocalHierarchy(["tests.bench.noop"])))
        with RedisServer(bundled_server(), append_only=True) as server:
            redis = RedisConfig(url=server.url, password=server.password, mode="external")
            there = LocalHierarchy(
                ["tests.bench.noop"], redis_config=redis, a2a_config=A2AConfig(agent_id="bench", token_secret=SECRET)
            )
            found["redis"].append(_tasks_per_s(there))
    return found


def _of_a_test() -> dict[str, float]:
    """Of the fixture `hierarchy`: until it is there, and a test with one task beyond that."""
    hierarchy = LocalHierarchy(["tests.bench.noop"], config=AgentConfig(events=EventLevel.ALL), virtual=True)
    began_s = time.perf_counter()
    with hierarchy:
        there_s = time.perf_counter()
        hierarchy.submit_and_wait(TASK_TYPE, {"number": 1})
    return {"start_ms": (there_s - began_s) * 1000, "task_ms": (time.perf_counter() - there_s) * 1000}


def _tasks_per_s(hierarchy: LocalHierarchy) -> float:
    with hierarchy as client:
        _do(client, WARM_UP)
        began_s = time.perf_counter()
        _do(client, TASKS)
        return TASKS / (time.perf_counter() - began_s)


def _do(client: Any, count: int) -> None:
    for _ in range(0, count, BATCH):
        ids = client.submit_many([Task(task_type=TASK_TYPE, payload={"number": 1}) for _ in range(min(BATCH, count))])
        for _ in client.as_completed(ids):
            pass
