"""A thousand open questions, over the death of everything: they take no process, and no memory of a worker."""

from __future__ import annotations

from pathlib import Path

import psutil
from orjson import loads

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.tasks import Task
from tests.bench.processes import family, shared_memory_mb
from tests.executor_bench import INTEGRATION
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import SECRET, ForkedTiers, Tiers
from tests.waiting import until

AGENTS = str(INTEGRATION / "asking_user_graphs.py")
COUNT = 1_000
#: Characters of the state of each run that asks: together four times what a worker may take more than without them.
STATE = 20_000
MORE_MB = COUNT * STATE / 4 / 1e6
AGENT_IDS = ("coordinator-1", "distributor-1", "w1")


def start(tiers: Tiers) -> None:
    for agent_id, role in zip(AGENT_IDS, ("coordinator", "distributor", "worker"), strict=True):
        tiers.start(role, agent_id, *(("--import", AGENTS) if role == "worker" else ()))


def taken(tiers: Tiers) -> tuple[int, float]:
    """The processes of the worker, and their memory."""
    worker = psutil.Process(tiers.pid("w1"))
    return len(list(family(worker))), shared_memory_mb(worker)


def test_a_thousand_questions_outlast_everything_and_take_nothing_of_a_worker(
    processes: Processes, tmp_path: Path
) -> None:
    with RedisServer(bundled_server(), append_only=True) as server:
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        keys, cell = CoordinatorKeys("coordinator-1"), CellKeys("distributor-1")
        config = A2AConfig(agent_id="c", token_secret=SECRET)
        with (
            ForkedTiers(processes, redis, tmp_path, WORKER_HOSTS="1") as tiers,
            AgentClient(redis, config, "coordinator-1", "c") as client,
        ):

            def asked(*tasks: Task) -> list[str]:
                """Submits tasks; returns their ids when all open tasks ask something."""
                ids = client.submit_many(tasks)
                with server.connect() as connection:
                    until(lambda: connection.zcard(keys.questions) == connection.hlen(keys.tasks), "all ask", 120)
                    assert not connection.hlen(cell.wanted)
                    assert {loads(record)["status"] for record in connection.hvals(cell.actual)} == {"waiting"}
                return ids

            start(tiers)
            asked(Task(task_type="asker", payload={}))
            alone = taken(tiers)

            payload = {"answers": "x" * STATE}
            ids = asked(*(Task(task_type="asker", payload=payload) for _ in range(COUNT)))
            for agent_id in AGENT_IDS:
                tiers.kill(agent_id)
            server.write_log()
            server.kill()
            server.start()
            start(tiers)
            asked(Task(task_type="asker", payload={}))  # the worker is there, and has done what the first one had

            count, memory_mb = taken(tiers)
            assert count == alone[0]
            assert memory_mb - alone[1] < MORE_MB
            assert len({question.task_id for question in client.questions(limit=COUNT)}) == COUNT
            client.answer(ids[-1], client.questions(task=ids[-1])[0].interrupt_id, "mine")
            assert client.value(ids[-1], 60) == {"answers": ["mine", "default"]}
