"""A question of an agent that another one has asked to work, over processes of which all are killed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.tasks import Task
from tests.executor_bench import INTEGRATION
from tests.tiers import SECRET, ForkedTiers, Tiers
from tests.waiting import until

AGENTS = str(INTEGRATION / "asking_user_graphs.py")


def start(tiers: Tiers, number: int) -> None:
    tiers.start("coordinator", "coordinator-1")
    tiers.start("distributor", "distributor-1")
    tiers.start("worker", f"w{number}", "--import", AGENTS)


# What is tested here is the same on every server.
@pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")
def test_a_question_of_a_child_is_answered_at_its_root_after_all_agents_were_killed(
    processes: Processes, redis_config: RedisConfig, tmp_path: Path
) -> None:
    config = A2AConfig(agent_id="c", token_secret=SECRET)
    with (
        ForkedTiers(processes, redis_config, tmp_path) as tiers,
        AgentClient(redis_config, config, "coordinator-1", "c") as client,
    ):
        start(tiers, 1)
        task_id = client.submit(Task(task_type="boss", payload={}))
        [question] = until(lambda: client.questions(root=task_id), "it is asked")

        for name in ("coordinator-1", "distributor-1", "w1"):
            tiers.kill(name)
        start(tiers, 2)

        assert (question.task_id, question.asks, question.root_id) == (f"{task_id}/0", "first", task_id)
        assert client.questions(root=task_id) == [question]
        client.answer(question.task_id, question.interrupt_id, "mine", question.digest)
        result, refused, children = client.value(task_id, 60)["answers"]
    assert result == {"answers": ["mine", "default"]}
    assert refused.startswith("a task of type 'boss' waits for this one already (boss)")
    assert children == 0
