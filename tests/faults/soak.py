"""Constant load, and nothing may grow: `python -m tests.faults.soak --minutes 30`, or `make soak MINUTES=30`.

Memory and descriptors of every agent, keys, memory and connections of the server are measured all the time. The first
third of the time they settle; what they have in the last third is held against what they had in the second. A worker's
memory takes some 200 s to settle, after which it has made enough garbage for it to be collected: 10 minutes are the
least that tells of memory, while a minute tells of all else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import psutil

from core.chaos.ledger import LEDGER_VARIABLE
from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.tasks import Task
from tests.faults.stage import COORDINATOR, Stage
from tests.redis_server import RedisServer, bundled_server

__all__ = ["Drift", "soak"]

#: Tasks each second, in so many batches: far less than can be done, so that it stays constant.
RATE, BATCHES = 100, 10
SAMPLE_S, REPORT_S = 0.5, 10.0
#: Ended tasks are forgotten soon, so that what is kept of them has settled within the first third.
RETENTION_S = 1
#: A task that has not ended by then is lost.
PATIENCE_S = 30.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """What is measured, and how much more of it is noise: so much, or that share of it."""

    unit: str
    noise: float
    share: float


MEMORY = Kind("MiB", 1.5, 0.03)
DESCRIPTORS = Kind("descriptors", 1, 0)
#: A look at the standbys comes and goes.
KEYS = Kind("keys", 2, 0)
CONNECTIONS = Kind("connections", 1, 0)

#: Keys that are there while a task is open, or an agent of that health: samples taken in step with the batches see them
#: always or never, and batches and samples drift. There is one of each however many have ended.
COMES_AND_GOES = re.compile(rb":(open|submissions|tasks:wanted|agents:by:health:\d+)$")


@dataclass(frozen=True, slots=True)
class Drift:
    """How one measured value moved."""

    whose: str
    kind: Kind
    before: float  #: its median in the second third
    after: float  #: in the last

    @property
    def grows(self) -> bool:
        return self.after - self.before > max(self.kind.noise, self.kind.share * self.before)

    def __str__(self) -> str:
        verdict = "GROWS" if self.grows else "level"
        return f"{self.whose:18} {self.before:10.2f} {self.after:10.2f} {self.kind.unit:12} {verdict}"


Sample = dict[tuple[str, Kind], float]


def soak(stage: Stage, seconds: float, tell: Callable[[str], None]) -> list[Drift]:
    """Loads the agents of a stage for so long; how each value moved. Raises TaskTimeout when a task does not end."""
    return asyncio.run(_soak(stage, seconds, tell))


async def _soak(stage: Stage, seconds: float, tell: Callable[[str], None]) -> list[Drift]:
    samples: list[Sample] = []
    began_s = told_s = time.monotonic()
    async with AgentClient(stage.redis, stage.secrets, COORDINATOR) as client, asyncio.TaskGroup() as group:
        load = Load(client)
        loading = group.create_task(load.run(group))
        while (now_s := time.monotonic()) < began_s + seconds:
            samples.append(measured(stage))
            if now_s >= told_s + REPORT_S:
                told_s = now_s
                tell(f"{now_s - began_s:6.0f} s  {load.ended} tasks have ended  {outline(samples[-1])}")
            await asyncio.sleep(SAMPLE_S)
        loading.cancel()
    third = len(samples) // 3
    return [
        Drift(
            *name,
            median(sample[name] for sample in samples[third : 2 * third]),
            median(sample[name] for sample in samples[-third:]),
        )
        for name in samples[0]
    ]


class Load:
    """So many tasks each second, each waited for."""

    def __init__(self, client: AgentClient) -> None:
        self.ended = 0
        self._client = client
        self._numbers = count(1)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Until cancelled; what was submitted is waited for in `group`."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            group.create_task(self._carry())
            due_s = max(due_s + 1 / BATCHES, loop.time())
            await asyncio.sleep(due_s - loop.time())

    async def _carry(self) -> None:
        numbers = [next(self._numbers) for _ in range(RATE // BATCHES)]
        tasks = [Task(task_id=f"soak-{n}", task_type="chaos.work", payload={"number": n}) for n in numbers]
        async for _ in self._client.as_completed(await self._client.submit_many.aio(tasks, PATIENCE_S), PATIENCE_S):
            self.ended += 1


def measured(stage: Stage) -> Sample:
    """Everything, now."""
    sample: Sample = {}
    for name in stage.processes.names():
        process = psutil.Process(stage.processes.pid(name))
        sample[name, MEMORY] = process.memory_info().rss / MIB
        with suppress(psutil.AccessDenied):  # an agent shows them to root alone
            sample[name, DESCRIPTORS] = process.num_fds()
    with stage.server.connect() as client:
        sample["server", MEMORY] = client.info("memory")["used_memory"] / MIB
        sample["server", CONNECTIONS] = client.info("clients")["connected_clients"]
        sample["server", KEYS] = sum(COMES_AND_GOES.search(key) is None for key in client.keys("*"))
    return sample


def outline(sample: Sample) -> str:
    agents_mib = sum(value for (name, kind), value in sample.items() if kind is MEMORY and name != "server")
    return f"agents {agents_mib:.0f} MiB  server {sample['server', MEMORY]:.1f} MiB, {sample['server', KEYS]:.0f} keys"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The long form. Returns 1 when something grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args(argv).minutes
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        server = stack.enter_context(RedisServer(bundled_server(), append_only=True))
        stage = Stage(server, stack.enter_context(Processes(directory, {})), directory)
        stack.callback(stage.close)
        server.ask("CONFIG", "SET", "appendonly", "no")  # hours of it would fill the disk
        stage.start(TASK_RETENTION_S=f"{RETENTION_S}", **{LEDGER_VARIABLE: os.devnull})
        drifts = soak(stage, minutes * 60, say)
    say(f"\n{'':18} {'2nd third':>10} {'3rd third':>10}")
    say("\n".join(map(str, drifts)))
    return int(any(drift.grows for drift in drifts))


if __name__ == "__main__":
    sys.exit(main())
