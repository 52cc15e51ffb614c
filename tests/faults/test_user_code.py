"""User code does its worst, and the worker stays what it was: lines 9 and 32 to 34 of the matrix."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, RedisConfig
from core.redis_backend.keys import CellKeys
from core.tasks import Task
from tests.executor_bench import Bench, error_of
from tests.faults.stage import LEASE_S, PROFILE_ENVIRONMENT, SECRET
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until_async

HOSTILE_CODE = str(Path(__file__).parent / "hostile_code.py")

#: Small, so that it is soon reached.
LIMIT_MB = 64
MIB = 1 << 20

WORKERS = ("worker-1", "worker-2")
ON_WORKER_1 = ("is-worker-1",)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(concurrency=1, code=HOSTILE_CODE, child_memory_mb=LIMIT_MB)
    await bench.executor.start()
    yield bench
    await bench.executor.close()


# memory and descriptors


@pytest.mark.matrix(33)
@pytest.mark.parametrize("task_type", ["grow", "grow_and_abort"])
async def test_who_wants_more_memory_than_allowed_fails_by_that_name_and_its_process_is_replaced(
    bench: Bench, task_type: str
) -> None:
    before = (await bench.run("own_pid")).result
    error = error_of(await bench.run(task_type))

    assert (error.type, error.retryable) == ("memory", True)
    assert f"more than its {LIMIT_MB} MiB" in error.message
    assert "WORKER_CHILD_MEMORY_MB" in error.message
    if task_type == "grow":
        assert error.output.endswith(" MiB\n")  # what it said last
        assert int(error.output.split()[-2]) > LIMIT_MB / 2
    assert (await bench.run("own_pid")).result != before


@pytest.mark.matrix(33)
async def test_a_handler_may_be_allowed_more_memory_than_the_others(bench: Bench) -> None:
    assert (await bench.run("allocate_more", 2 * LIMIT_MB)).result == 2 * LIMIT_MB * MIB
    assert error_of(await bench.run("allocate", 2 * LIMIT_MB)).type == "memory"


@pytest.mark.matrix(33)
@pytest.mark.parametrize(
    ("task_type", "each"), [("leak_memory", LIMIT_MB // 3), ("leak_descriptors", 50)], ids=["memory", "descriptors"]
)
async def test_a_process_that_keeps_what_its_attempts_took_is_replaced_before_that_hurts(
    bench: Bench, task_type: str, each: int
) -> None:
    pids = [(await bench.run(task_type, each)).result for _ in range(6)]

    assert len(set(pids)) >= 2
    assert all(finished.status == "completed" for finished in bench.finished)


@pytest.mark.matrix(33)
async def test_who_opens_descriptors_without_end_fails_and_its_process_is_replaced(bench: Bench) -> None:
    before = (await bench.run("own_pid")).result
    error = error_of(await bench.run("leak_descriptors", 100_000))

    assert (error.type, error.message) == ("OSError", "[Errno 24] Too many open files: '/dev/null'")
    assert (await bench.run("own_pid")).result != before


# processes


@pytest.mark.matrix(34)
@pytest.mark.parametrize(("end", "status"), [("return", "completed"), ("sleep", "timeout"), ("die", "process_died")])
async def test_processes_that_an_attempt_started_end_with_it_wherever_they_hide(
    bench: Bench, tmp_path: Path, end: str, status: str
) -> None:
    ledger = tmp_path / "pids"
    finished = await bench.run("fork", {"processes": 20, "ledger": str(ledger), "end": end}, timeout_s=2)
    pids = [int(line) for line in ledger.read_text().splitlines()]

    assert status == (finished.error.type if finished.error else finished.status)
    assert len(pids) == 20
    await until_async(lambda: not any(map(psutil.pid_exists, pids)), "all of them are gone")
    assert (await bench.run("own_pid")).status == "completed"


# the worker itself, in a hierarchy of processes


@dataclass
class Home:
    """A coordinator, a distributor and two workers; what is in question here does not depend on the server."""

    server: RedisServer
    agents: Processes

    @property
    def client(self) -> AgentClient:
        redis = RedisConfig(url=self.server.url, password=self.server.password, mode="external")
        return AgentClient(redis, A2ASecrets(token_secret=SECRET))

    def start_worker(self, worker: str, **environment: str) -> None:
        flags = ("--import", HOSTILE_CODE, "--concurrency", "4", "--capabilities", f"is-{worker}")
        self.agents.start("worker", worker, *flags, environment=environment)

    def rss_mb(self, worker: str) -> float:
        return float(psutil.Process(self.agents.pid(worker)).memory_info().rss / MIB)

    def beat(self, worker: str) -> bytes | None:
        with self.server.connect() as redis:
            found: bytes | None = redis.hget(CellKeys("distributor-1").heartbeats, worker)
            return found


@pytest.fixture(scope="module")
def home(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with RedisServer(bundled_server()) as server:
        processes.directory = tmp_path_factory.mktemp("home")
        limit = {"WORKER_CHILD_MEMORY_MB": f"{LIMIT_MB}"}
        processes.environment = {**os.environ, **PROFILE_ENVIRONMENT, **server.environment, **limit}
        home = Home(server, processes)
        processes.start("coordinator", "coordinator-1")
        processes.start("distributor", "distributor-1")
        for worker in WORKERS:
            home.start_worker(worker)
        yield home
        processes.forget_all()


@pytest.fixture
async def client(home: Home) -> AsyncIterator[AgentClient]:
    async with home.client as client:
        for worker in WORKERS:  # both are there, and consume
            await run(client, "quick", capabilities=(f"is-{worker}",))
        yield client


async def run(client: AgentClient, task_type: str, payload: Any = None, **fields: Any) -> Task:
    task_id = await client.submit.aio(Task(task_type=task_type, payload=payload, backoff_s=0, **fields))
    return await client.result.aio(task_id, 60)


async def longest_silence_s(home: Home, worker: str, during: asyncio.Task[Any]) -> float:
    """The longest time without a new heartbeat of a worker while something runs."""
    longest_s, last, since_s = 0.0, home.beat(worker), time.monotonic()
    while not during.done():
        await asyncio.sleep(0.02)
        if (beat := home.beat(worker)) != last:
            last, since_s = beat, time.monotonic()
        longest_s = max(longest_s, time.monotonic() - since_s)
    return longest_s


@pytest.mark.matrix(9)
async def test_a_function_that_holds_the_interpreter_is_killed_at_its_deadline_and_its_worker_never_falls_silent(
    home: Home, client: AgentClient
) -> None:
    bombs = [
        asyncio.create_task(run(client, "endless_regex", timeout_s=2 * LEASE_S, capabilities=ON_WORKER_1)) for _ in "ab"
    ]
    beside = asyncio.create_task(run(client, "own_pid", capabilities=ON_WORKER_1))
    silence_s = await longest_silence_s(home, "worker-1", bombs[0])

    assert silence_s < LEASE_S
    assert (await beside).status == "completed"
    for bomb in bombs:
        ended = await bomb
        assert (ended.status, ended.error and ended.error.type) == ("failed", "timeout")
        assert ended.started_at
        assert ended.completed_at
        # It is killed 1 s after its time is up; the rest is the way to the worker, and back.
        assert (ended.completed_at - ended.started_at).total_seconds() < 2 * LEASE_S + 1 + LEASE_S


@pytest.mark.matrix(32)
async def test_a_hanging_function_is_killed_a_second_after_its_deadline_each_time_until_its_attempts_are_used_up(
    home: Home, client: AgentClient, tmp_path: Path
) -> None:
    ledger, limit_s = tmp_path / "ledger", 0.5
    ended = await run(client, "hang", str(ledger), timeout_s=limit_s, max_attempts=3)

    lines = [line.split() for line in ledger.read_text().splitlines()]
    assert [attempt for attempt, _, _ in lines] == ["1", "2", "3"]
    assert (ended.status, [error.type for error in ended.errors]) == ("failed", ["timeout"] * 3)
    await until_async(lambda: not any(psutil.pid_exists(int(pid)) for _, pid, _ in lines), "they are gone")
    began_s = [float(when) for _, _, when in lines]
    # It is killed 1 s after its time is up; the rest is the way to the coordinator and back.
    assert all(limit_s + 1 <= later - earlier < limit_s + 1 + LEASE_S for earlier, later in pairwise(began_s))


# The matrix asks for an hour of it: here it is a hundred attempts.
@pytest.mark.matrix(33)
async def test_a_worker_does_not_grow_with_the_tasks_that_outgrow_their_limit(home: Home, client: AgentClient) -> None:
    async def outgrow(count: int) -> None:
        tasks = [Task(task_type="grow", capabilities=ON_WORKER_1) for _ in range(count)]
        ended = [await client.result.aio(task_id, 60) for task_id in await client.submit_many.aio(tasks)]
        assert {(task.status, task.error and task.error.type) for task in ended} == {("failed", "memory")}

    await outgrow(10)
    before_mb = home.rss_mb("worker-1")
    await outgrow(100)

    assert home.rss_mb("worker-1") == pytest.approx(before_mb, abs=10)


@pytest.mark.matrix(34)
async def test_a_flood_of_output_and_a_result_beyond_all_bounds_cost_a_worker_nothing(
    home: Home, client: AgentClient
) -> None:
    await run(client, "print_much", 16, capabilities=ON_WORKER_1)
    before_mb, log_before = home.rss_mb("worker-1"), len(home.agents.log("worker-1"))
    flooding = asyncio.create_task(run(client, "print_much", 1024, capabilities=ON_WORKER_1))
    returning = asyncio.create_task(run(client, "return_much", 100, capabilities=ON_WORKER_1))
    most_mb = before_mb
    while not (flooding.done() and returning.done()):
        await asyncio.sleep(0.02)
        most_mb = max(most_mb, home.rss_mb("worker-1"))
    flood, huge = await flooding, await returning

    assert (flood.status, flood.output.strip("x\n"), len(flood.output)) == ("completed", "", 2048)
    assert len(home.agents.log("worker-1")) - log_before < 80 * 1024
    assert (huge.status, huge.error and huge.error.type, len(huge.errors)) == ("failed", "TooLarge", 1)
    assert "over the limit of 262144" in (huge.error.message if huge.error else "")
    assert most_mb - before_mb < 32


@pytest.mark.matrix(9)
@pytest.mark.parametrize("for_ever", [False, True], ids=["for 2 x L", "for ever"])
async def test_a_coroutine_that_blocks_the_loop_loses_its_task_to_another_worker_and_counts_no_more(
    home: Home, client: AgentClient, tmp_path: Path, for_ever: bool
) -> None:
    ledger = tmp_path / "ledger"
    payload = {"ledger": str(ledger), "hold_s": 2 * LEASE_S, "for_ever": for_ever}
    began_s = time.monotonic()
    ended = await run(client, "hold_loop", payload, max_attempts=2)
    moved_s = time.monotonic() - began_s

    assert (ended.status, ended.result, ended.attempt) == ("completed", 2, 2)
    assert moved_s < 2 * LEASE_S + 1  # the failure timeout, and what it takes to notice and to run
    [(_, blocked, _), (_, other, _)] = [line.split() for line in ledger.read_text().splitlines()]
    assert blocked != other
    [worker] = [worker for worker in WORKERS if home.agents.pid(worker) == int(blocked)]
    await until_async(lambda: "in the handler of 'hold_loop'" in home.agents.log(worker), "its log says who holds it")
    if for_ever:
        assert home.agents.wait(worker) == 1
        assert "hostile_code.py" in home.agents.log(worker)  # where it stood still
        home.start_worker(worker)
    probe = await run(client, "quick", capabilities=(f"is-{worker}",))  # deaf it is not, once it turns again
    assert probe.status == "completed"
    after = await client.result.aio(ended.task_id, 10)
    assert (after.result, after.attempt, len(ledger.read_text().splitlines())) == (2, 2, 2)


async def test_user_code_that_exits_or_stops_the_loop_fails_its_own_attempt_at_most(
    home: Home, client: AgentClient, tmp_path: Path
) -> None:
    ways = {"gather": "SystemExit", "group": "SystemExit", "interrupt": "KeyboardInterrupt", "callback": "", "stop": ""}
    pid, ledger = home.agents.pid("worker-1"), tmp_path / "ledger"
    beside = {"ledger": str(ledger), "go": str(tmp_path / "go")}
    neighbour = asyncio.create_task(run(client, "neighbour", beside, capabilities=ON_WORKER_1))
    await until_async(ledger.exists, "the neighbour runs")

    ended = [await run(client, "end_the_loop", way, capabilities=ON_WORKER_1) for way in ways]
    (tmp_path / "go").touch()

    assert [task.error.type if task.error else "" for task in ended] == [*ways.values()]
    assert ((await neighbour).status, (await neighbour).attempt) == ("completed", 1)
    assert home.agents.pid("worker-1") == pid
    assert home.agents.alive("worker-1")
    assert home.agents.log("worker-1").count('"action": "loop_goes_on"') == len(ways)


# a worker that begins anew


async def test_a_worker_whose_step_failed_half_way_tells_nothing_of_what_it_ran_before(
    home: Home, client: AgentClient, tmp_path: Path
) -> None:
    home.agents.kill("worker-2")
    home.start_worker("worker-2", AGENT_FAILPOINTS="graph:4:raise")  # it has come, told of an end or two, and then
    ledger = tmp_path / "ledger"
    naps = [
        Task(task_type="nap", payload={"ledger": str(ledger), "nap_s": nap_s}, capabilities=("is-worker-2",))
        for nap_s in (0.2, 0.4, 0.6, 0.8, 0.2, 0.4, 0.6, 0.8)
    ]
    ended = [await client.result.aio(task_id, 30) for task_id in await client.submit_many.aio(naps)]

    await until_async(lambda: '"action": "step_failed"' in home.agents.log("worker-2"), "a step fails")
    assert {(task.status, task.result) for task in ended} == {("completed", "slept")}
    assert len(naps) < len(ledger.read_text().splitlines()) <= 2 * len(naps)  # what ran then ran again
