"""What happens in the hierarchy that is recorded: of everything that a step can be about, something."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import redis.asyncio

from coordinator.agent import CoordinatorAgent
from core.client.agent_client import AgentClient
from core.errors import TaskRefused, UnknownTask
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Action, Address, Role
from core.runtime.agent import Agent
from core.tasks import Task, TaskStatus, utc_now
from distributor.agent import DistributorAgent
from tests.integration.hierarchy import FAST, House, add, runs, spawn, wait
from tests.integration.speaker import Speaker
from tests.redis_server import RedisServer
from tests.waiting import until_async

__all__ = ["FOLDER", "happen"]

#: Where all agents are recorded.
FOLDER = Path(__file__).parent / "recordings"
#: Few heartbeats, so that most of what is recorded is about tasks.
CALM = FAST.model_copy(
    update={"heartbeat_s": 0.5, "failure_timeout_s": 1.5, "lease_s": 1.5, "max_open_tasks": 16, "record": FOLDER}
)
TOP, ODD = Address(Role.COORDINATOR, "k"), Address(Role.CLIENT, "odd")
TWO_CHILDREN: list[dict[str, Any]] = [{"task_type": "wait"}, {"task_type": "add", "payload": [2]}]


async def happen(home: House, server: RedisServer) -> None:
    """Two cells, from their start to their end: each chapter finds the agents that the one before has left."""
    for handler in home.handlers:  # so that no traceback tells where this machine has its files
        handler.function.__code__ = handler.function.__code__.replace(co_filename="handlers.py")
    coordinator = await home.coordinator(config=CALM)
    first = await home.distributor("d1", config=CALM)
    second = await home.distributor("d2", config=CALM)
    worker = await home.worker("w1", "d1", config=CALM, capabilities=["here"])
    await home.worker("w2", "d2", config=CALM)
    me = await home.client("me~1")

    await ordinary_tasks(me)
    await refusals(me, server)
    await cancellations(home, me, coordinator)
    await a_worker_is_lost(home, me, worker)
    await a_distributor_is_lost(home, me, first)
    coordinator = await the_coordinator_is_lost(home, me, coordinator)
    await calls_of_programs(home, coordinator, second)
    await a_drain(home, me, second)


def flaky(task_id: str, times: int, **fields: Any) -> Task:
    """Fails so often."""
    return Task(task_id=task_id, task_type="flaky", payload=times, **{"backoff_s": 0, **fields})


async def crash(agent: Agent) -> None:
    """Ends an agent in the middle: without a goodbye, and its lease runs out."""
    assert agent._running
    agent._running.cancel()
    await asyncio.wait([agent._running])


async def waits(coordinator: CoordinatorAgent, task_id: str) -> None:
    def status() -> Any:
        return coordinator.state.local_tasks[task_id].status

    await until_async(lambda: status() is TaskStatus.WAITING, f"{task_id} has delegated")


async def ended(me: AgentClient, *task_ids: str) -> None:
    async for _ in me.as_completed(task_ids, timeout_s=30):
        pass


async def ordinary_tasks(me: AgentClient) -> None:
    """What succeeds, fails and is tried again, delegates, begins later, or is dead in the end."""
    failing = {"task_type": "flaky", "payload": 9, "max_attempts": 1}
    tasks = [
        add("urgent", 1, 2, priority="urgent"),
        add("low", 1, priority="low"),
        add("later", 1, delay_s=0.3),
        flaky("flaky", 2, backoff_s=0.05),
        flaky("dies", 9, max_attempts=2),
        Task(task_id="slow", task_type="slow"),
        Task(task_id="tree", task_type="tree", payload=1),
        spawn("half", [{"task_type": "add", "payload": [1]}, failing], then="outcomes"),
        Task(task_id="expires", task_type="unheard", deadline=utc_now() + timedelta(seconds=0.8)),
    ]
    await ended(me, *await me.submit_many.aio(tasks))
    await me.submit_many.aio(tasks[:2])  # once more


async def refusals(me: AgentClient, server: RedisServer) -> None:
    """More than there may be; and what is no task, beside one that is."""
    many = [add(f"many{number}", number, delay_s=60) for number in range(18)]
    with suppress(TaskRefused):
        await me.submit_many.aio(many)
    for task in many:
        with suppress(UnknownTask):
            await me.cancel.aio(task.task_id)
    async with redis.asyncio.Redis(unix_socket_path=str(server.socket), password=server.password) as connection:
        speaker = Speaker(connection, (TOP, ODD), TOP, CoordinatorKeys("k").inbox)
        good = orjson.loads(add("beside", 1).to_json())
        await speaker.say(Action.SUBMIT_TASK, tasks=[{"task_id": 1}, good, {**good, "task_id": "other", "depth": -1}])
        await speaker.say(Action.CANCEL_TASK, tasks=["beside", "urgent", "nobody's", 5])
        await speaker.say(Action.WATCH_TASK, tasks=["beside", "urgent", "nobody's"])


async def cancellations(home: House, me: AgentClient, coordinator: CoordinatorAgent) -> None:
    """Of a task that runs, and of one whose children run."""
    await me.submit_many.aio([wait("stopped"), spawn("parent", TWO_CHILDREN)])
    await runs(home, "stopped")
    await waits(coordinator, "parent")
    await me.cancel.aio("stopped")
    await me.cancel.aio("parent")
    await ended(me, "stopped", "parent")


async def a_worker_is_lost(home: House, me: AgentClient, worker: Agent) -> None:
    await me.submit.aio(wait("survives", 1, capabilities=("here",)))
    await runs(home, "survives")
    await crash(worker)
    await home.worker("w3", "d1", config=CALM, capabilities=["here"])
    await runs(home, "survives", attempts=2)
    home.door("survives").set()
    await ended(me, "survives")


async def a_distributor_is_lost(home: House, me: AgentClient, distributor: Agent) -> None:
    """Its tasks move to the other one; then it is there again."""
    moved = [f"moved{number}" for number in range(3)]
    await me.submit_many.aio([wait(task_id, capabilities=("task:wait",)) for task_id in moved])
    for task_id in moved:
        await runs(home, task_id)
    await crash(distributor)
    await until_async(lambda: sum(home.runs[task_id] for task_id in moved) > len(moved), "one runs again elsewhere")
    for task_id in moved:
        home.door(task_id).set()
    await ended(me, *moved)
    await home.distributor("d1", config=CALM)


async def the_coordinator_is_lost(home: House, me: AgentClient, coordinator: CoordinatorAgent) -> CoordinatorAgent:
    """With open tasks and dead letters, which its successor finds."""
    await me.submit_many.aio([wait("kept"), spawn("waits", TWO_CHILDREN)])
    await runs(home, "kept")
    await waits(coordinator, "waits")
    await crash(coordinator)
    successor = await home.coordinator(config=CALM)
    home.door("kept").set()
    await ended(me, "kept", await me.replay.aio("dies"))
    await me.purge_dead_letter.aio("slow")
    await me.cancel.aio("waits")
    await ended(me, "waits")
    return successor


async def calls_of_programs(home: House, coordinator: CoordinatorAgent, distributor: DistributorAgent) -> None:
    await coordinator.register_distributor.aio("d9")
    await coordinator.assign_task_to_distributor.aio(add("assigned", 1), "d2")
    await distributor.register_worker.aio("w9")
    await until_async(lambda: "w2" in distributor.state.workers, "its worker is there")
    await distributor.assign_task_to_worker.aio(add("by-hand", 1), "w2")
    await until_async(lambda: home.runs["by-hand"] and home.runs["assigned"], "they ran")


async def a_drain(home: House, me: AgentClient, distributor: DistributorAgent) -> None:
    """That does not end in time, so that what runs is handed back and finished elsewhere."""
    await me.submit_many.aio([wait(f"back{number}") for number in range(2)])
    await runs(home, "back0")
    await distributor.drain(timeout_s=0.2)
    for number in range(2):
        home.door(f"back{number}").set()
    await ended(me, "back0", "back1")
