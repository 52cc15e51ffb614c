"""What a stretch of work cost: time, CPU by process, commands at the server, memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from tests.bench.processes import cpu_s, family, memory_mb
from tests.bench.workload import System
from tests.redis_server import RedisServer

__all__ = ["Cost", "commands", "commands_by_role", "measured"]


@dataclass
class Cost:
    """Of `tasks` tasks. The client is this process."""

    system: str
    tasks: int
    wall_s: float = 0.0
    tasks_per_s: float = 0.0
    cpu_us_per_task: dict[str, float] = field(default_factory=dict)
    cpu_us_per_task_total: float = 0.0
    commands_per_task: float = 0.0
    memory_mb: dict[str, float] = field(default_factory=dict)


@contextmanager
def measured(system: System, server: RedisServer, tasks: int) -> Iterator[Cost]:
    """Fills the Cost that it yields with what happened inside, per task; who knows the number of tasks only at the end
    of the block sets `tasks` there."""
    processes = {**system.processes, "server": psutil.Process(server.pid)}
    cost = Cost(system.name, tasks)
    commands_before = commands(server)
    cpu_before = {role: cpu_s(process) for role, process in processes.items()}
    client_before, began = time.process_time(), time.perf_counter()
    yield cost
    cost.wall_s = time.perf_counter() - began
    spent = {"client": time.process_time() - client_before}
    spent |= {role: cpu_s(process) - cpu_before[role] for role, process in processes.items()}
    cost.tasks_per_s = cost.tasks / cost.wall_s
    cost.cpu_us_per_task = {role: seconds * 1e6 / cost.tasks for role, seconds in spent.items()}
    cost.cpu_us_per_task_total = sum(cost.cpu_us_per_task.values())
    cost.commands_per_task = (commands(server) - commands_before) / cost.tasks
    cost.memory_mb = {role: memory_mb(process) for role, process in processes.items()}


def commands(server: RedisServer) -> int:
    """Commands the server has run so far, those inside transactions and scripts too; not our own looking."""
    with server.connect() as client:
        statistics = client.info("commandstats")
    looking = {
        "cmdstat_info",
        "cmdstat_auth",
        "cmdstat_hello",
        "cmdstat_ping",
        "cmdstat_client|setinfo",
        "cmdstat_client|list",
    }
    return sum(entry["calls"] for name, entry in statistics.items() if name not in looking)


def commands_by_role(system: System, server: RedisServer) -> dict[str, int]:
    """Commands that each process has sent on the connections it has open now, told apart by their local ports."""
    role_of = {
        connection.laddr.port: role
        for role, process in system.processes.items()
        for member in family(process)
        for connection in member.net_connections("tcp")
        if connection.raddr and connection.raddr.port == server.port
    }
    sent = dict.fromkeys(system.processes, 0)
    with server.connect() as client:
        for line in client.client_list():
            port = int(line["addr"].rpartition(":")[2] or 0)
            if port in role_of:
                sent[role_of[port]] += int(line["tot-cmds"])
    return sent
