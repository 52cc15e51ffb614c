"""A worker's program forks its forkserver ahead: what that shares with the worker, and what it must not know."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.tasks import Task
from tests.process_memory import memory_of, root_only
from tests.tiers import ForkedTiers, Tiers
from tests.waiting import until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a forkserver is always started anew"),
    # What is tested here is the same on every server.
    pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session"),
]

SECRET = "what-nobody-but-agents-may-know-27182818"
PASSWORD = "what-the-server-was-told-31415926"  # of no server: only that it goes nowhere is looked at
CODE = """
import os, sys, time
from worker import Context, task

@task("look")
def look() -> dict:
    return {
        "langgraph": "langgraph" in sys.modules, "environment": dict(os.environ),
        "arguments": sys.argv, "parent": os.getppid(),
    }

@task("linger", timeout=60)
def linger(ctx: Context) -> None:
    while not ctx.cancelled:
        time.sleep(0.02)
"""
COROUTINE = """
from worker import task

@task("look")
async def look() -> str:
    return "on the loop"
"""


@pytest.fixture
def tiers(redis_config: RedisConfig, processes: Processes, tmp_path: Path) -> Iterator[Tiers]:
    """For a worker, whose handlers stand in mine.py; a coordinator and a distributor are there."""
    secrets = {"A2A_TOKEN_SECRET": SECRET, "A2A_PREVIOUS_SECRET": PASSWORD}
    with ForkedTiers(processes, redis_config, tmp_path, **secrets) as upper:
        upper.start("coordinator", "k")
        upper.start("distributor", "d", "--coordinator", "k")
        with Tiers(redis_config, tmp_path, **secrets) as tiers:
            yield tiers


@pytest.fixture
def client(tiers: Tiers) -> Iterator[AgentClient]:
    with AgentClient(tiers.redis, A2AConfig(agent_id="c", token_secret=SECRET), "k", "c") as client:
        yield client


def start_worker(tiers: Tiers, folder: Path, code: str, *flags: str) -> psutil.Process:
    (folder / "mine.py").write_text(code)
    tiers.start("worker", "w", "--coordinator", "k", "--distributor", "d", "--import", "./mine.py", *flags)
    return psutil.Process(tiers.pid("w"))


def look(client: AgentClient) -> Any:
    return client.value(client.submit(Task(task_type="look"), 60), 60)


@root_only
def test_user_code_shares_the_workers_libraries_and_nothing_of_what_opens_the_system(
    tiers: Tiers, client: AgentClient, tmp_path: Path
) -> None:
    """Its memory is read from outside: there is no copy of a secret in it, whether or not it could be found by name."""
    worker = start_worker(tiers, tmp_path, CODE)
    seen = look(client)
    assert seen["langgraph"]  # which its module does not import
    assert seen["arguments"] == ["worker.children.forkserver"]
    assert not {SECRET, PASSWORD} & set(seen["environment"].values())

    client.submit(Task(task_type="linger"))
    until(lambda: len(worker.children(recursive=True)) == 2, "there are a forkserver and a child")
    for process in worker.children(recursive=True):
        assert process.cmdline()[0] == "worker.children.forkserver"
        assert not {SECRET, PASSWORD} & set(process.environ().values())
        memory = memory_of(process.pid)
        assert b"worker.children.forkserver" in memory
        assert SECRET.encode() not in memory
        assert PASSWORD.encode() not in memory
    assert SECRET.encode() in memory_of(worker.pid)  # it would have been found


def test_one_that_was_killed_is_followed_by_one_that_is_started_anew(
    tiers: Tiers, client: AgentClient, tmp_path: Path
) -> None:
    start_worker(tiers, tmp_path, CODE)
    first = look(client)
    os.kill(first["parent"], signal.SIGKILL)
    until(lambda: not psutil.pid_exists(first["parent"]), "the worker has noticed")

    second = look(client)

    assert second["parent"] != first["parent"]
    assert not second["langgraph"]
    assert not {SECRET, PASSWORD} & set(second["environment"].values())


def test_one_that_died_before_it_was_needed_is_replaced_by_one_that_is_started_anew(
    tiers: Tiers, client: AgentClient, tmp_path: Path
) -> None:
    start_worker(
        tiers, tmp_path, 'import time\nwhile not __import__("os").path.exists("go"): time.sleep(0.01)\n' + CODE
    )
    [ahead] = until(lambda: forkservers_in(tmp_path), "it was forked")
    ahead.kill()
    until(lambda: ahead.status() == psutil.STATUS_ZOMBIE, "it is dead")
    (tmp_path / "go").touch()

    assert not look(client)["langgraph"]


def test_a_worker_of_coroutines_only_lets_it_go(tiers: Tiers, client: AgentClient, tmp_path: Path) -> None:
    worker = start_worker(tiers, tmp_path, COROUTINE)
    assert look(client) == "on the loop"
    until(lambda: not worker.children(), "nothing is left of the forkserver, not even a zombie")


@pytest.mark.parametrize("flags", [("--concurrency", "none"), ("--import", "no.such.module"), ("--help",)])
def test_a_worker_that_cannot_start_leaves_none_behind(tiers: Tiers, tmp_path: Path, flags: tuple[str, ...]) -> None:
    start_worker(tiers, tmp_path, CODE, *flags)
    assert tiers.exit_code("w") == (0 if flags == ("--help",) else 78)
    until(lambda: not forkservers_in(tmp_path), "it has ended as well")


def forkservers_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[:1] == ["worker.children.forkserver"] and process.cwd() == str(folder):
                found.append(process)
    return found
