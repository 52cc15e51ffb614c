"""What is done to a server while its agents are at work, and a submitter who outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from secrets import token_hex

import pytest
import redis

from core.chaos.append_log import AppendLog, Transaction
from core.chaos.history import Grant, History
from core.chaos.judge import Verdict, judge
from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.errors import ServerRefused, TaskLost, TransportDown
from core.tasks import Task
from tests.faults.stage import COORDINATOR, PATIENCE_S, PROFILE, SETTLE_S, Stage
from tests.redis_server import RedisServer
from tests.waiting import until

__all__ = [
    "AGENTS", "DOWN_S", "Load", "Submitter", "all_act", "crash", "cut_log", "fences_used_again",
    "first_commit_s", "history_of", "judged_after_loss", "leases", "log_lines", "one_server", "refusal", "setting",
    "split_at_flush", "told_by_now", "under_load",
]  # fmt: skip

#: For what agents do of which the server's kind makes no difference.
one_server = pytest.mark.parametrize("chaos_server", ["bundled"], indirect=True)
#: By id, whoever acts for them.
AGENTS = tuple(name for name in PROFILE if not name.endswith("b"))

#: How long a server that was killed is away.
DOWN_S = 0.5
BATCH, MAX_OPEN = 20, 100
#: By lease, who held it, in order.
Grants = Mapping[str, Sequence[Grant]]
#: Between two looks whether there is room, and two tries while the server refuses.
POLL_S, RETRY_S = 0.005, 0.2


class Submitter:
    """A program that must not lose an order: it keeps each task until it is told of its end, and what it is told was
    lost it submits again under the same id. All it asks and is told stands in the stage's ledger."""

    def __init__(self, stage: Stage, redis: RedisConfig, run_ms: int) -> None:
        self.told = 0  #: ends it has heard of
        self.lost: list[str] = []  #: what it was told was lost, in order
        self._client = AgentClient(redis, stage.secrets, COORDINATOR)
        self._ledger = stage.ledger
        self._run_ms = run_ms
        self._name, self._numbers = token_hex(3), count(1)
        self._open: dict[str, Task] = {}
        self._over = threading.Event()

    @property
    def open(self) -> set[str]:
        """Tasks whose end it has not heard of."""
        return set(self._open.copy())

    def stop(self) -> None:
        self._over.set()

    async def run(self) -> None:
        """Returns when it was stopped and all it has submitted have ended."""
        async with self._client, asyncio.TaskGroup() as batches:
            while not self._over.is_set():
                if len(self._open) + BATCH <= MAX_OPEN:
                    tasks = [self._task() for _ in range(BATCH)]
                    self._open.update((task.task_id, task) for task in tasks)
                    batches.create_task(self._carry(tasks))
                await asyncio.sleep(POLL_S)

    def _task(self) -> Task:
        number = next(self._numbers)
        fields = {"number": number, "ms": self._run_ms}
        return Task(task_id=f"order-{self._name}-{number}", task_type="chaos.work", payload=fields)

    async def _carry(self, tasks: Sequence[Task]) -> None:
        """One batch, from its first submission to the end of its last task."""
        await self._submit(tasks)
        while waiting := [task.task_id for task in tasks if task.task_id in self._open]:
            try:
                async for task in self._client.as_completed(waiting, PATIENCE_S):
                    self._ledger.note("result", task.task_id, status=task.status.value, result=task.result)
                    del self._open[task.task_id]
                    self.told += 1
            except TaskLost as error:
                self.lost += error.task_ids
                await self._submit([self._open[task_id] for task_id in error.task_ids])

    async def _submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._ledger.note("submitted", task.task_id)
        while True:
            try:
                await self._client.submit_many.aio(tasks, PATIENCE_S)
                break
            except (TransportDown, ServerRefused):
                await asyncio.sleep(RETRY_S)
        for task in tasks:
            self._ledger.note("accepted", task.task_id)


class Load:
    """A submitter at work beside the test."""

    def __init__(self, submitter: Submitter, pool: ThreadPoolExecutor) -> None:
        self.submitter = submitter
        self.running = pool.submit(asyncio.run, submitter.run())

    def progress(self, more: int = 100) -> None:
        """Waits until so many more tasks have ended."""
        enough = self.submitter.told + more
        self._until(lambda: self.submitter.told >= enough, f"{more} more tasks have ended", PATIENCE_S)

    def turnover(self, timeout_s: float = PATIENCE_S) -> None:
        """Waits until all tasks that are open now have ended."""
        waiting = self.submitter.open
        self._until(lambda: not waiting & self.submitter.open, "tasks that were open have ended", timeout_s)

    def _until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        until(lambda: self.running.done() or condition(), what, timeout_s)
        if self.running.done():
            self.running.result()


@contextmanager
def under_load(stage: Stage, run_ms: int = 3, redis: RedisConfig | None = None) -> Iterator[Load]:
    """Inside, tasks are submitted and end all the time; afterwards all that were submitted have ended. `redis`: how
    the submitter reaches the server, if not as the stage does."""
    submitter = Submitter(stage, redis or stage.redis, run_ms)
    with ThreadPoolExecutor(1, "load") as pool:
        load = Load(submitter, pool)
        try:
            yield load
        finally:
            submitter.stop()
        load.running.result()


def all_act(stage: Stage, *agent_ids: str) -> None:
    """Returns when somebody acts for each of these agents, by default for all."""
    for agent_id in agent_ids or AGENTS:
        stage.acting(agent_id)


def log_lines(stage: Stage) -> Counter[str]:
    """By process, how many lines it has logged that are no mere news."""
    lines: Counter[str] = Counter()
    for name in stage.processes.names():
        said = (json.loads(line) for line in stage.processes.log(name).splitlines() if line.startswith("{"))
        lines[name] = sum(line["level"] in ("WARNING", "ERROR", "CRITICAL") for line in said)
    return lines


def crash(server: RedisServer, down_s: float = DOWN_S) -> None:
    """The server's process is killed, and `down_s` later it is back on what it had written."""
    server.write_log()  # with a disk so slow that it answers before it writes, see line 11
    server.kill()
    time.sleep(down_s)
    server.start()


def first_commit_s(stage: Stage) -> float:
    """Seconds until an agent commits. The server has just come back."""
    began_s, before = time.monotonic(), leases(stage)
    until(lambda: any(now not in (None, was) for was, now in zip(before, leases(stage), strict=True)), "a commit")
    return time.monotonic() - began_s


def leases(stage: Stage) -> list[bytes | None]:
    """Those of all agents; every commit writes its agent's anew."""
    with stage.server.connect() as client:
        return list(client.mget(map(stage.lease_key, AGENTS)))


def history_of(log: Iterable[Transaction]) -> History:
    """What was written, looked at in order."""
    history = History()
    for transaction in log:
        history.take(transaction)
    return history


def split_at_flush(log: Iterable[Transaction]) -> tuple[list[Transaction], list[Transaction]]:
    """What was written before FLUSHALL, and after it."""
    before: list[Transaction] = []
    after: list[Transaction] = []
    part = before
    for transaction in log:
        if next(transaction.named(b"FLUSHALL"), None) is not None:
            part = after
        else:
            part.append(transaction)
    return before, after


def cut_log(server: RedisServer, size: int) -> None:
    """Its append-only file ends there, as when power failed before the rest reached the disk."""
    newest = max(server.append_directory.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime_ns)
    others = AppendLog(server.append_directory).end() - newest.stat().st_size
    os.truncate(newest, size - others)


def told_by_now(stage: Stage) -> set[str]:
    """Tasks whose end a client has noted."""
    return {entry.task_id for entry in stage.entries() if entry.kind == "result"}


def judged_after_loss(stage: Stage, kept: Callable[[], Iterable[Transaction]], forgotten: Container[str]) -> Verdict:
    """The verdict on what a server has kept that lost something, and on what came after, once all is settled.
    `forgotten`: tasks whose end it has lost, after the client was told; whatever becomes of them now, they are not
    waited for any more."""
    asked_and_told = ("accepted", "result")
    entries = [entry for entry in stage.entries() if not (entry.task_id in forgotten and entry.kind in asked_and_told)]
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        stage.server.write_log()
        verdict = judge(entries, kept())
        if not verdict.left or time.monotonic() > deadline_s:
            stage.healthy = verdict.clean
            return verdict
        time.sleep(POLL_S)


def fences_used_again(before: Grants, after: Grants) -> dict[str, list[int]]:
    """By lease, the fences that were given out after a server lost something and are not above all before."""
    found = {}
    for lease, grants in after.items():
        known = {grant.epoch for grant in before.get(lease, ())}
        low = [grant.epoch for grant in grants if known and grant not in before[lease] and grant.epoch <= max(known)]
        if low:
            found[lease] = low
    return found


def refusal(server: RedisServer) -> str:
    """The code with which it refuses to write; empty: it writes."""
    with server.connect() as client:
        try:
            client.set("probe", "", px=1000)
        except redis.ResponseError as error:
            return str(error).split()[0]
    return ""


@contextmanager
def setting(server: RedisServer, **settings: str) -> Iterator[None]:
    """Inside, the server has these settings, by name with `_` for `-`; it must not be started anew meanwhile."""
    before = {}
    with server.connect() as client:
        for name, value in settings.items():
            name = name.replace("_", "-")
            before.update(client.config_get(name))
            client.config_set(name, value)
    try:
        yield
    finally:
        with server.connect() as client:
            for key, old in before.items():
                client.config_set(key, old)
