"""Each tier as a process of its own, started by hand, killed and stopped under load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import AgentClient, RedisConfig, Task
from core.chaos.processes import Processes
from core.config.settings import A2ASecrets
from core.errors import UnknownKey
from tests.tiers import SECRET, ForkedTiers, Tiers
from tests.waiting import until

#: Every run leaves a line in a file that the system knows nothing of.
TASKS = """
import asyncio, os, threading, time
from pathlib import Path
from worker import Context, task

def note(ctx: Context) -> None:
    with open("ledger", "a") as ledger:
        ledger.write(f"{ctx.task_id} {ctx.attempt}\\n")

@task("square", retries=9)
def square(payload: int, ctx: Context) -> int:
    note(ctx)
    time.sleep(0.005)
    return payload * payload

@task("cube", retries=9)
async def cube(payload: int, ctx: Context) -> int:
    note(ctx)
    return payload ** 3

@task("hold", retries=9)
def hold(payload: str, ctx: Context) -> int:
    Path(f"{payload}.begun").touch()
    while not Path(f"{payload}.go").exists():
        time.sleep(0.01)
    return ctx.attempt

@task("hold_on", retries=9)
async def hold_on(payload: str, ctx: Context) -> int:
    threading.Thread(target=time.sleep, args=(600,), name="a thread of the user's").start()
    Path(f"{payload}.begun").touch()
    while not Path(f"{payload}.go").exists():
        try:
            await asyncio.to_thread(time.sleep, 600)
        except asyncio.CancelledError:
            pass
    return ctx.attempt

@task("break", retries=0)
def break_(payload: str) -> None:
    raise ValueError(f"cannot break {payload}")
"""


@pytest.fixture
def tiers(redis_config: RedisConfig, processes: Processes, tmp_path: Path) -> Iterator[Tiers]:
    (tmp_path / "load.py").write_text(TASKS)
    with ForkedTiers(processes, redis_config, tmp_path) as running:
        yield running


@pytest.fixture
def programs(redis_config: RedisConfig, tmp_path: Path) -> Iterator[Tiers]:
    """For those that begin and end as Python does."""
    (tmp_path / "load.py").write_text(TASKS)
    with Tiers(redis_config, tmp_path) as running:
        yield running


def hierarchy(tiers: Tiers, *, distributors: int, workers: int) -> None:
    """`workers` workers for each of the distributors, started before those above them."""
    for d in range(1, distributors + 1):
        for w in range(1, workers + 1):
            tiers.start("worker", f"worker-{d}{w}", "--distributor", f"distributor-{d}", "--import", "./load.py")
        tiers.start("distributor", f"distributor-{d}")
    tiers.start("coordinator", "coordinator-1")


def upper_tiers(tiers: Tiers) -> None:
    tiers.start("coordinator", "coordinator-1")
    tiers.start("distributor", "distributor-1")


def load(count: int) -> list[Task]:
    kinds = ("square", "cube")
    return [Task(task_id=f"t-{n}", task_type=kinds[n % 2], payload=n, backoff_s=0.1) for n in range(count)]


def check(ended: list[Task], count: int) -> None:
    """Every task ended once, with the right result."""
    assert Counter(task.task_id for task in ended) == Counter({f"t-{n}": 1 for n in range(count)})
    results = {task.task_id: task.result for task in ended}
    assert results == {f"t-{n}": n ** (3 if n % 2 else 2) for n in range(count)}


def test_tiers_that_start_in_any_order_find_each_other_and_run_a_task(programs: Tiers) -> None:
    with AgentClient(programs.redis, programs.secrets) as client:
        # Given a task that is submitted before anybody is there
        hierarchy(programs, distributors=1, workers=1)
        task_id = client.submit(Task(task_type="square", payload=7))
        # Then
        assert client.value(task_id, timeout_s=60) == 49


def disturbed(tiers: Tiers, count: int, after: int, disturb: Callable[[], None]) -> None:
    """Submits `count` tasks, disturbs the tiers when `after` of them have ended, and checks how all of them ended."""
    with AgentClient(tiers.redis, tiers.secrets) as client:
        ended = []
        for task in client.as_completed(client.submit_many(load(count)), timeout_s=60):
            ended.append(task)
            if len(ended) == after:
                disturb()
        check(ended, count)


def test_every_task_ends_once_and_right_although_a_worker_is_killed_under_load(tiers: Tiers) -> None:
    hierarchy(tiers, distributors=1, workers=2)
    disturbed(tiers, 600, 100, lambda: tiers.kill("worker-11"))


def test_every_task_ends_once_and_right_although_a_distributor_is_killed_for_good_under_load(tiers: Tiers) -> None:
    hierarchy(tiers, distributors=2, workers=1)
    disturbed(tiers, 600, 100, lambda: tiers.kill("distributor-1"))


@pytest.mark.parametrize("role", ["distributor", "coordinator"])
def test_an_upper_tier_that_is_killed_and_started_again_goes_on_with_its_tasks(tiers: Tiers, role: str) -> None:
    def restart() -> None:
        tiers.kill(f"{role}-1")
        tiers.start(role, f"{role}-1")

    hierarchy(tiers, distributors=1, workers=2)
    disturbed(tiers, 400, 50, restart)


def test_all_tiers_killed_at_once_and_started_again_finish_what_was_accepted(tiers: Tiers) -> None:
    def restart() -> None:
        for agent_id in ("coordinator-1", "distributor-1", "worker-11", "worker-12"):
            tiers.kill(agent_id)
        hierarchy(tiers, distributors=1, workers=2)

    hierarchy(tiers, distributors=1, workers=2)
    disturbed(tiers, 400, 50, restart)


def test_a_worker_that_is_asked_to_stop_finishes_what_runs_and_ends_with_0(
    tiers: Tiers, programs: Tiers, tmp_path: Path
) -> None:
    upper_tiers(tiers)
    programs.start("worker", "worker-11", "--import", "load")
    with AgentClient(programs.redis, programs.secrets) as client:
        task_id = client.submit(Task(task_type="hold", payload="one"))
        until((tmp_path / "one.begun").exists, "the task runs")
        # When
        programs.terminate("worker-11")
        (tmp_path / "one.go").touch()
        # Then
        assert programs.exit_code("worker-11") == 0, programs.log("worker-11")
        assert client.value(task_id, timeout_s=30) == 1


def test_a_worker_that_must_stop_before_its_task_has_ended_hands_it_back_and_ends_with_75(
    tiers: Tiers, programs: Tiers, tmp_path: Path
) -> None:
    # Given
    upper_tiers(tiers)
    programs.start("worker", "worker-1", "--import", "load", "--drain-timeout", "0.2")
    with AgentClient(programs.redis, programs.secrets) as client:
        ids = [client.submit(Task(task_type=name, payload=name)) for name in ("hold", "hold_on")]
        until(lambda: all((tmp_path / f"{name}.begun").exists() for name in ("hold", "hold_on")), "the tasks run")
        # When
        programs.terminate("worker-1")
        # Then
        assert programs.exit_code("worker-1") == 75, programs.log("worker-1")
        assert "handed back" in programs.log("worker-1")
        assert "a thread of the user's" in programs.log("worker-1")
        assert ', hold_on"' in programs.log("worker-1")
        for name in ("hold", "hold_on"):
            (tmp_path / f"{name}.go").touch()
        programs.start("worker", "worker-2", "--import", "load")
        for ended in (client.result(task_id, timeout_s=60) for task_id in ids):
            assert ended.status == "completed"
            assert ended.retry_count == 1  # what was handed back does not count
            assert ended.attempt == 2
        # And only a thread that a task has left behind holds nobody up either
        programs.terminate("worker-2")
        assert programs.exit_code("worker-2") == 0, programs.log("worker-2")


def test_a_worker_says_which_attempt_failed_and_leaves_what_may_be_private_to_the_record(tiers: Tiers) -> None:
    hierarchy(tiers, distributors=1, workers=1)
    with AgentClient(tiers.redis, tiers.secrets) as client:
        task_id = client.submit(Task(task_type="break", payload="the bank"))
        ended = client.result(task_id, timeout_s=60)
    assert ended.error
    assert ended.error.message == "cannot break the bank"
    assert f"agents tasks show {task_id}" in tiers.log("worker-11")
    assert "ValueError" in tiers.log("worker-11")
    assert "the bank" not in tiers.log("worker-11")


def test_a_second_process_with_the_same_id_refuses_to_start(programs: Tiers) -> None:
    programs.start("coordinator", "coordinator-1")
    with AgentClient(programs.redis, programs.secrets) as client:
        client.submit(Task(task_type="square", payload=1))  # it is at work
        first = programs._running["coordinator-1"]
        # When
        programs.start("coordinator", "coordinator-1")
        # Then
        assert programs.exit_code("coordinator-1") == 1
        assert "another live process acts as 'coordinator-1'" in programs.log("coordinator-1")
        assert first.poll() is None
        first.kill()
        first.wait()


def test_no_log_of_any_tier_holds_the_secret_or_a_payload(tiers: Tiers) -> None:
    hierarchy(tiers, distributors=1, workers=1)
    with AgentClient(tiers.redis, tiers.secrets) as client:
        client.result(client.submit(Task(task_type="square", payload=918273645)), timeout_s=60)
    for agent_id in ("coordinator-1", "distributor-1", "worker-11"):
        assert "918273645" not in tiers.log(agent_id)
        assert SECRET not in tiers.log(agent_id)


def test_a_client_with_another_secret_is_told_that_it_was_rejected(tiers: Tiers) -> None:
    hierarchy(tiers, distributors=1, workers=1)
    with AgentClient(tiers.redis, tiers.secrets) as client:
        client.submit(Task(task_type="square", payload=1))  # the coordinator is at work
    with (
        AgentClient(tiers.redis, A2ASecrets(token_secret="some other secret, long enough")) as stranger,
        pytest.raises(UnknownKey, match="A2A_TOKEN_SECRET"),
    ):
        stranger.submit(Task(task_type="square", payload=1))
