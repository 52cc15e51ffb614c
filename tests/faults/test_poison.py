"""A task that can never succeed ends after its attempts as a dead letter and fails nobody else: line 31 of the matrix.

How much the others are slowed down is not measured here: each death costs a start of a process.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, RedisConfig
from core.operations.dead_letters import dead_letter_ids, original_message, signature_found
from core.operations.reader import reading
from core.tasks import Task
from tests.faults.stage import COORDINATOR, PROFILE_ENVIRONMENT, SECRET
from tests.redis_server import RedisServer, bundled_server

POISON_CODE = str(Path(__file__).parent / "poison_code.py")
WORKERS = ("worker-1", "worker-2")
ATTEMPTS = 3


@dataclass
class Home:
    """A coordinator, a distributor and two workers; what is in question here does not depend on the server."""

    agents: Processes
    redis: RedisConfig
    ledger: Path

    def start_worker(self, worker: str) -> None:
        self.agents.start("worker", worker, "--import", POISON_CODE, "--concurrency", "2")

    def executions(self) -> dict[str, list[int]]:
        """The numbers of the attempts that began, by task, in their order."""
        runs: dict[str, list[int]] = {}
        for line in self.ledger.read_text().splitlines():
            task_id, attempt = line.split()
            runs.setdefault(task_id, []).append(int(attempt))
        return runs

    def tasks(self, kind: str, count: int) -> list[Task]:
        ids = [f"{kind}-{n}" for n in range(count)]
        return [Task(task_id=task_id, task_type=kind, payload=str(self.ledger), backoff_s=0.2) for task_id in ids]


@pytest.fixture
def home(processes: Processes, tmp_path: Path) -> Iterator[Home]:
    with RedisServer(bundled_server()) as server:
        processes.directory = tmp_path
        # Nobody is stopped here: whoever falls silent for a while on a busy machine is not to be taken for dead.
        patient = {"AGENT_FAILURE_TIMEOUT_S": "20", "AGENT_LEASE_S": "20"}
        processes.environment = {**os.environ, **PROFILE_ENVIRONMENT, **patient, **server.environment}
        home = Home(
            processes, RedisConfig(url=server.url, password=server.password, mode="external"), tmp_path / "ledger"
        )
        processes.start("coordinator", COORDINATOR)
        processes.start("distributor", "distributor-1")
        for worker in WORKERS:
            home.start_worker(worker)
        yield home
        processes.forget_all()


@pytest.fixture
async def client(home: Home) -> AsyncIterator[AgentClient]:
    async with AgentClient(home.redis, A2ASecrets(token_secret=SECRET), COORDINATOR) as client:
        yield client


async def ends_of(client: AgentClient, tasks: list[Task]) -> list[Task]:
    """In the order in which they end."""
    return [task async for task in client.as_completed(await client.submit_many.aio(tasks), timeout_s=60)]


def interleaved(poison: list[Task], others: list[Task]) -> list[Task]:
    every = len(others) // len(poison)
    return [task for n, poisoned in enumerate(poison) for task in (poisoned, *others[n * every : (n + 1) * every])]


@asynccontextmanager
async def a_supervisor(home: Home) -> AsyncIterator[None]:
    """Starts again every worker that dies."""

    async def watch() -> None:
        while True:
            for worker in WORKERS:
                if not home.agents.alive(worker):
                    home.start_worker(worker)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.matrix(31)
@pytest.mark.parametrize(("kind", "error"), [("raises", "ValueError"), ("kills_its_process", "process_died")])
async def test_poison_ends_as_a_dead_letter_after_exactly_its_attempts_and_all_others_end_well_at_their_first(
    home: Home, client: AgentClient, kind: str, error: str
) -> None:
    poison, others = home.tasks(kind, 20), home.tasks("good", 280)
    ended = await ends_of(client, interleaved(poison, others))

    assert Counter(task.status.value for task in ended) == {"completed": 280, "failed": 20}
    for task in (task for task in ended if task.task_type == kind):
        assert [(failure.attempt, failure.type) for failure in task.errors] == [
            (n, error) for n in range(1, ATTEMPTS + 1)
        ]
        assert [failure.output for failure in task.errors] == [f"run {n} of it\n" for n in range(1, ATTEMPTS + 1)]
        assert task.retry_count == ATTEMPTS
    runs = home.executions()
    assert all(runs[task.task_id] == list(range(1, ATTEMPTS + 1)) for task in poison)
    assert all(runs[task.task_id] == [1] for task in others)
    async with reading(home.redis) as reader:
        assert sorted(await dead_letter_ids(reader, COORDINATOR)) == sorted(task.task_id for task in poison)
        signed = await original_message(reader, COORDINATOR, next(task for task in ended if task.error))
    assert signed is not None
    assert signature_found(signed, COORDINATOR, A2ASecrets(token_secret=SECRET), home.redis) == "valid"


@pytest.mark.matrix(31)
async def test_poison_that_kills_its_worker_ends_after_its_attempts_and_nobody_is_given_up_with_it(
    home: Home, client: AgentClient
) -> None:
    [poison] = home.tasks("kills_its_worker", 1)
    others = home.tasks("good", 199)
    async with a_supervisor(home):
        ended = {task.task_id: task for task in await ends_of(client, [*others[:50], poison, *others[50:]])}

    dead = ended.pop(poison.task_id)
    assert {task.status.value for task in ended.values()} == {"completed"}
    assert (dead.status, dead.retry_count) == ("abandoned", ATTEMPTS)
    assert [error.type for error in dead.errors] == ["worker_lost"] * ATTEMPTS
    # It may have stood behind others the first time: then nobody can say whether it had begun, and that does not count.
    assert ATTEMPTS <= len(home.executions()[poison.task_id]) <= ATTEMPTS + 1
    async with reading(home.redis) as reader:
        assert await dead_letter_ids(reader, COORDINATOR) == [poison.task_id]


@pytest.mark.matrix(31)
async def test_poison_that_is_replayed_gets_its_attempts_anew_and_is_a_dead_letter_again(
    home: Home, client: AgentClient
) -> None:
    poison = home.tasks("raises", 1)
    await ends_of(client, poison)

    again = await client.result.aio(await client.replay.aio("raises-0"), 60)

    assert (again.status, again.retry_count, again.idempotency_key) == ("failed", ATTEMPTS, "raises-0")
    assert home.executions() == {"raises-0": [1, 2, 3], "raises-0.replay1": [1, 2, 3]}
    async with reading(home.redis) as reader:
        assert await dead_letter_ids(reader, COORDINATOR) == ["raises-0.replay1"]
