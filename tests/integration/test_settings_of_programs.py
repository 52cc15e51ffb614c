"""A program that says nothing about Redis and secrets is configured like the agents around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.agent import CoordinatorAgent
from core import A2AConfig, AgentClient, RedisConfig, Task
from core.config.variables import secret_text
from core.errors import TaskTimeout, TransportDown
from core.wiring import secrets_or_configured
from distributor.agent import DistributorAgent
from worker.agent import WorkerAgent

NOWHERE = "unix:///nowhere/redis.sock"


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_what_a_program_leaves_out_comes_from_the_environment_and_dotenv(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"REDIS_URL": NOWHERE, "REDIS_MODE": "external", "COORDINATOR_ID": "boss", "AGENT_LEASE_S": "7"}
    if place == ".env":
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    else:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
    coordinator = CoordinatorAgent("boss")
    distributor = DistributorAgent("distributor-1")
    worker = WorkerAgent("worker-1")

    for resident in (AgentClient().open, coordinator.initialize, distributor.initialize, worker.initialize):
        with pytest.raises(TransportDown, match=r"/nowhere/redis\.sock"):
            resident()
    assert {coordinator.config.lease_s, distributor.config.lease_s, worker.config.lease_s} == {7}
    assert distributor._chain[0].agent_id == worker._chain[0].agent_id == AgentClient()._coordinator.agent_id == "boss"


def test_a_program_that_only_says_who_it_is_signs_as_the_agents_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2A_TOKEN_SECRET", "the-secret-of-all-terminals")

    configured = secrets_or_configured(A2AConfig(agent_id="coordinator-1"))
    given = secrets_or_configured(A2AConfig(agent_id="coordinator-1", token_secret="one-of-its-very-own"))

    assert configured.agent_id == "coordinator-1"
    assert secret_text(configured.token_secret) == "the-secret-of-all-terminals"
    assert secret_text(given.token_secret) == "one-of-its-very-own"


async def test_a_client_that_gets_no_answer_says_where_it_asked(redis_config: RedisConfig) -> None:
    async with AgentClient(redis_config, A2AConfig(agent_id="c", token_secret="s" * 16)) as client:
        with pytest.raises(TaskTimeout, match=str(redis_config.endpoint).split("?")[0]):
            await client.submit.aio(Task(task_type="t"), timeout_s=0.01)
