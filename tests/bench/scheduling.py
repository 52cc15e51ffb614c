"""What it costs to find a place for a task, by the rules alone: of so many that are open, among so many agents. The
time is that of the processor, since nothing here waits."""

from __future__ import annotations

import time
from typing import Any

from core.agents import Subordinate
from core.balancing import Balancer
from core.dispatch_queue import DispatchQueue
from core.roles import Address, Role
from core.status_reports import Beat
from core.strategies import Strategy, Turns, asks_of
from core.tasks import Task, skills_needed, utc_now

__all__ = ["scheduling"]

AGENTS = 1_000
OPEN = (1_000, 10_000, 100_000)
#: The agents are of so many kinds, each with half of the task types.
KINDS, TYPES = 4, 8
#: The tasks have so many keys.
KEYS = 10_000


def scheduling(repeats: int) -> list[dict[str, Any]]:
    """For each strategy and number of open tasks, µs for each task that is placed: the least of the repeats, since only
    other load makes them longer; of the largest number one."""
    found = []
    for count in OPEN:
        tasks = {task.task_id: task for task in map(_task, range(count))}
        for strategy in Strategy:
            least_us = min(_placed_us(strategy, tasks) for _ in range(repeats if count < OPEN[-1] else 1))
            found.append({"strategy": strategy.value, "open": count, "us": least_us})
    return found


def _placed_us(strategy: Strategy, tasks: dict[str, Task]) -> float:
    """Takes the tasks from the queue, chooses an agent for each, and counts it there."""
    agents, count = [_agent(number) for number in range(AGENTS)], len(tasks)
    queue, turns = DispatchQueue(), Turns()
    for task in tasks.values():
        queue.push(task)
    queue.wake(0)
    began_s = time.process_time()
    balancer = Balancer(agents, strategy, turns)
    while (task_id := queue.pop(balancer.can_serve)) is not None:
        task = tasks[task_id]
        agent = balancer.choose(asks_of(task))
        assert agent
        agent.take(task_id, skills_needed(task))
    took_s = time.process_time() - began_s
    if sum(len(agent.in_flight) for agent in agents) != count:
        raise AssertionError("some tasks have no place")
    return took_s * 1e6 / count


def _agent(number: int) -> Subordinate:
    kind = number % KINDS
    skills = tuple(f"task:t{(kind + other) % TYPES}" for other in range(0, TYPES, 2))
    beat = Beat(beat=1, concurrency=100, capacity=200, capabilities=skills, region=f"region-{number % 5}")
    agent = Subordinate(Address(Role.WORKER, f"worker-{number:04}"), 1, beat, 0)
    agent.update(beat, 0)
    return agent


def _task(number: int) -> Task:
    return Task(
        task_id=f"task-{number}", task_type=f"t{number % TYPES}", created_at=utc_now(), regions=("region-1",),
        affinity_key=f"key-{number % KEYS}",
    )  # fmt: skip
