"""What no-op tasks cost before, and while so many suspended tasks wait for the answer of a person, in one run."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from core.redis_backend.keys import CoordinatorKeys
from tests.bench import graphs
from tests.bench.measure import measured
from tests.bench.noop import TASK_TYPE
from tests.bench.our_system import BATCH, OurSystem
from tests.bench.parts import running
from tests.redis_server import RedisServer
from tests.waiting import until

__all__ = ["waiting"]

WARM_UP_TASKS = 2_000
#: Runs at once in a worker, and seconds in which a batch of tasks has asked.
AT_ONCE, BATCH_S = 200, 120.0


def waiting(count: int, tasks: int, repeats: int) -> dict[str, Any]:
    """The cost of `tasks` no-op tasks, `repeats` times before `count` others ask and `repeats` times beside them."""
    with running(_system) as (system, server):
        system.run(WARM_UP_TASKS)
        before = [_cost(system, server, tasks) for _ in range(repeats)]
        began_s = time.monotonic()
        _open(system, server, count)
        opened_s = time.monotonic() - began_s
        beside = [_cost(system, server, tasks) for _ in range(repeats)]
        if _asking(server) != count:
            raise AssertionError("some do not ask any more")
    return {"waiting": count, "opened_s": opened_s, "before": before, "beside": beside}


def _system(server: RedisServer) -> OurSystem:
    modules = (graphs.__name__, "tests.bench.noop")
    return OurSystem(server, handlers=modules, task_type=TASK_TYPE, agent_concurrency=AT_ONCE)


def _cost(system: OurSystem, server: RedisServer, tasks: int) -> dict[str, Any]:
    with measured(system, server, tasks) as cost:
        system.run(tasks)
    return asdict(cost)


def _open(system: OurSystem, server: RedisServer, count: int) -> None:
    """Returns when so many tasks ask."""
    for asked in range(0, count, BATCH):
        more = min(BATCH, count - asked)
        system.leave(more, graphs.ASKS)
        until(lambda goal=asked + more: _asking(server) >= goal, "the batch asks", BATCH_S)  # type: ignore[misc]


def _asking(server: RedisServer) -> int:
    with server.connect() as connection:
        return int(connection.zcard(CoordinatorKeys("coordinator-1").questions))
