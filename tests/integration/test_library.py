"""The agents as a library: every operation called in a plain script, and the same operations awaited."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import orjson
import pytest

from coordinator.agent import CoordinatorAgent
from core import A2AConfig, RedisConfig, Task
from distributor.agent import DistributorAgent
from tests.builders import SECRET
from tests.integration.hierarchy import House, add
from tests.pages import sample_of
from tests.redis_server import RedisServer
from tests.waiting import until_async

#: What a script that is given no settings finds around it.
SCRIPT_HEAD = """
import json, time
from core import A2AConfig, AgentClient, RedisConfig, Task
from coordinator.agent import CoordinatorAgent
from distributor.agent import DistributorAgent
from worker.agent import WorkerAgent
from worker.authoring.handlers import task

redis_config = RedisConfig(url=URL, password=PASSWORD, mode="external")

@task("sum")
async def total(payload):
    return sum(payload["numbers"])

def until(condition):
    deadline = time.monotonic() + 20
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value
"""

EVERY_OPERATION = """
coordinator = CoordinatorAgent(
    agent_id="coordinator-1", redis_config=redis_config, a2a_config=A2AConfig(agent_id="coordinator-1"))
distributor = DistributorAgent(
    agent_id="distributor-1", redis_config=redis_config, a2a_config=A2AConfig(agent_id="distributor-1"))
worker = WorkerAgent(agent_id="worker-1", redis_config=redis_config, a2a_config=A2AConfig(agent_id="worker-1"))
said = {}

said["initialize"] = [coordinator.initialize(), distributor.initialize(), worker.initialize(), worker.initialize()]
said["register_distributor"] = coordinator.register_distributor("distributor-1")
said["register_worker"] = distributor.register_worker("worker-1")
said["send_heartbeat"] = worker.send_heartbeat()
said["monitor"] = [coordinator.monitor_distributors(), distributor.monitor_workers()]
said["lease"] = [distributor.acquire_shared_state_lease(), distributor.renew_shared_state_lease()]

said["assigned"] = coordinator.assign_task_to_distributor(
    Task(task_id="task-1", task_type="sum", payload={"numbers": [1, 2, 3]}), "distributor-1")
with AgentClient(redis_config) as client:
    said["result"] = client.value("task-1", timeout_s=20)

until(lambda: "worker-1" in distributor.state.workers)
said["to_worker"] = [
    distributor.assign_task_to_worker(Task(task_id="task-2", task_type="sum", payload={"numbers": [4]}), name)
    for name in ("nobody", "worker-1")]

def ended():
    state = coordinator.get_distributor_state("distributor-1")
    return state if {one.task_id for one in state.tasks if one.status.ended} == {"task-1", "task-2"} else None

state = until(ended)
said["state"] = [state.distributor_id, list(state.assigned_workers), state.lease.owner, state.distributor_version > 0]
said["unknown_state"] = coordinator.get_distributor_state("nobody")
executed = worker.execute_task(Task(task_id="task-3", task_type="sum", payload={"numbers": [5, 6]}))
said["executed"] = [executed["task_id"], executed["status"], executed["result"]]
print(json.dumps(said))
"""


def run_script(server: RedisServer, text: str, **environment: str) -> Any:
    """What the script prints, parsed. It must end by itself, in good time and with nothing to complain of."""
    start = f"URL, PASSWORD = {server.url!r}, {server.password!r}\n"
    ran = subprocess.run(
        [sys.executable, "-c", start + SCRIPT_HEAD + text],
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return orjson.loads(ran.stdout)


def test_every_operation_can_be_called_in_a_plain_script(redis_server: RedisServer, redis_config: RedisConfig) -> None:
    assert run_script(redis_server, EVERY_OPERATION) == {
        "initialize": [True] * 4,
        "register_distributor": True,
        "register_worker": True,
        "send_heartbeat": True,
        "monitor": [None, None],
        "lease": [True, True],
        "assigned": True,
        "result": 6,
        "to_worker": [False, True],
        "state": ["distributor-1", ["worker-1"], "distributor:distributor-1", True],
        "unknown_state": None,
        "executed": ["task-3", "completed", 11],
    }


def test_a_script_that_ends_without_closing_gives_its_lease_back(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    script = 'print(json.dumps(CoordinatorAgent("k", redis_config).initialize()))'

    assert run_script(redis_server, script) is True

    with redis_server.connect() as plain:
        assert plain.keys("*lease*") == []


def test_an_error_in_a_script_is_that_of_the_operation(redis_server: RedisServer, redis_config: RedisConfig) -> None:
    text = """
from core.errors import LeaseLost, BadTask
said = []
coordinator = CoordinatorAgent("k", redis_config)
for operation, error in [
    (lambda: coordinator.assign_task_to_distributor(Task(task_type="sum"), "d"), LeaseLost),
    (lambda: coordinator.initialize() and coordinator.assign_task_to_distributor(
        Task(task_type="sum", payload="x" * 300_000), "d"), BadTask),
]:
    try:
        operation()
    except error as caught:
        said.append(type(caught).__name__)
print(json.dumps(said))
"""
    assert run_script(redis_server, text) == ["LeaseLost", "TooLarge"]  # a BadTask


def test_a_script_can_iterate_over_results_as_they_come(redis_server: RedisServer, redis_config: RedisConfig) -> None:
    text = """
with CoordinatorAgent("coordinator-1", redis_config), DistributorAgent("distributor-1", redis_config), \\
        WorkerAgent("worker-1", redis_config), AgentClient(redis_config) as client:
    ids = client.submit_many([Task(task_type="sum", payload={"numbers": [n]}) for n in range(20)])
    print(json.dumps(sorted(task.result for task in client.as_completed(ids, timeout_s=20))))
"""
    assert run_script(redis_server, text) == list(range(20))


async def test_every_operation_can_be_awaited(agents: House) -> None:
    coordinator, distributor, worker = await agents.coordinator(), await agents.distributor(), await agents.worker()

    assert await coordinator.initialize.aio() is True
    assert await coordinator.register_distributor.aio("d") is True
    assert await distributor.register_worker.aio("w") is True
    assert await worker.send_heartbeat.aio() is True
    await coordinator.monitor_distributors.aio()
    await distributor.monitor_workers.aio()
    assert await distributor.acquire_shared_state_lease.aio() is True
    assert await distributor.renew_shared_state_lease.aio() is True
    task = Task(task_id="t", task_type="add", payload=[1, 2])
    assert await coordinator.assign_task_to_distributor.aio(task, "d") is True

    async def shown() -> Any:
        state = await coordinator.get_distributor_state.aio("d")
        return state and [task for task in state.tasks if task.status.ended]

    [ended] = await until_async(shown, "the task has ended")
    assert (ended.task_id, ended.status) == ("t", "completed")
    assert (await worker.execute_task.aio(task))["result"] == 3


async def test_a_task_is_in_the_state_of_a_distributor_that_has_never_run(agents: House) -> None:
    coordinator = await agents.coordinator()
    assert await coordinator.assign_task_to_distributor.aio(add("t", 1, 2), "nobody-yet")

    state = await coordinator.get_distributor_state.aio("nobody-yet")

    assert state is not None
    assert [(task.task_id, task.status, task.assigned_to) for task in state.tasks] == [("t", "pending", None)]
    assert state.wanted == {"t": "assigned"}


async def test_a_task_that_is_assigned_again_after_its_end_is_not_run_again(agents: House) -> None:
    coordinator, _, _ = await agents.coordinator(), await agents.distributor(), await agents.worker()
    me = await agents.client()
    assert await coordinator.assign_task_to_distributor.aio(add("t", 1, 2), "d")
    assert await me.value.aio("t") == 3

    assert await coordinator.assign_task_to_distributor.aio(add("t", 1, 2), "d")
    assert await coordinator.assign_task_to_distributor.aio(add("other", 3), "d")
    assert await me.value.aio("other") == 3

    assert agents.runs == {"t": 1, "other": 1}


async def test_the_same_call_is_awaited_inside_a_running_loop(redis_config: RedisConfig) -> None:
    a2a = A2AConfig(agent_id="d", token_secret=SECRET.decode())
    agent: Any = DistributorAgent("d", redis_config, a2a)

    assert await agent.initialize() is True
    assert await agent.close() is None


@pytest.mark.parametrize("agent_id", ["", "-x", "a b", "x" * 65, "ä"])
def test_an_id_that_cannot_be_one_is_refused_at_once(agent_id: str) -> None:
    from core.errors import ConfigError

    with pytest.raises(ConfigError, match="agent id"):
        CoordinatorAgent(agent_id)


def test_the_sample_of_a_policy_of_ones_own_runs(redis_server: RedisServer, redis_config: RedisConfig) -> None:
    text = sample_of("docs/library.md", "A policy of your own")
    configured = {
        "REDIS_URL": redis_server.url, "REDIS_PASSWORD": redis_server.password or "", "REDIS_MODE": "external",
    }  # fmt: skip

    ran = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, timeout=60, env={**os.environ, **configured}, check=False
    )

    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout.decode().splitlines() == [
        "video-0 is accepted",
        "video-1 is accepted",
        "task 'video-2' was refused: two videos are open; submit it again when one has ended",
    ]
