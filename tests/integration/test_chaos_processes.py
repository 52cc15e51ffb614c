"""Agents forked on request: their environment, their exit codes, and that none outlives whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.chaos.processes import Processes
from core.config.settings import RedisConfig
from core.config.variables import secret_text
from tests.tiers import SECRET
from tests.waiting import until


def environment_of(redis: RedisConfig) -> dict[str, str]:
    return {
        **os.environ,
        "REDIS_URL": secret_text(redis.url) or "",
        "REDIS_PASSWORD": secret_text(redis.password) or "",
        "REDIS_MODE": "external",
        "A2A_TOKEN_SECRET": SECRET,
        "LOG_FORMAT": "json",
    }


@pytest.fixture
def processes(redis_config: RedisConfig, tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path, environment_of(redis_config)) as opened:
        yield opened


def is_up(processes: Processes, name: str) -> bool:
    return "agent_started" in processes.log(name)


def test_agents_are_started_signalled_and_waited_for_by_name(processes: Processes) -> None:
    processes.start("coordinator", "c", name="one")
    until(lambda: is_up(processes, "one"), "it acts")
    with pytest.raises(AssertionError, match="one runs already"):
        processes.start("coordinator", "c", name="one")
    processes.stop("one")
    assert processes.stopped("one")
    processes.cont("one")
    until(lambda: not processes.stopped("one"), "it goes on")

    processes.terminate("one")

    assert processes.wait("one") == 0
    assert not processes.alive("one")
    processes.signal("one", signal.SIGKILL)  # nothing happens: it has ended
    processes.start("coordinator", "c", name="one")
    processes.kill("one")
    assert processes.exit_code("one") == -signal.SIGKILL


def test_each_agent_has_its_own_environment_and_tells_its_exit_code(processes: Processes) -> None:
    processes.start("coordinator", "dies", environment={"AGENT_FAILPOINTS": "lease:1:kill"})
    processes.start("coordinator", "lives")
    processes.start("coordinator", "wrong", environment={"AGENT_LEASE_S": "never"})

    assert processes.wait("dies") == -signal.SIGKILL
    assert processes.wait("wrong") == 78
    assert "AGENT_LEASE_S" in processes.log("wrong")
    until(lambda: is_up(processes, "lives"), "the other one acts")
    with pytest.raises(TimeoutError, match="lives has not ended"):
        processes.wait("lives", timeout_s=0.01)
    processes.kill_all()
    assert processes.exit_code("lives") == -signal.SIGKILL


STARTS_ONE_AND_WAITS = """
import os, sys
from pathlib import Path
from core.chaos.processes import Processes
processes = Processes(Path.cwd(), os.environ)
print(processes.start("coordinator", "c"), processes._forkserver.pid, flush=True)
sys.stdin.read()
"""


def test_when_who_started_them_is_killed_none_of_them_lives_on(redis_config: RedisConfig) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE_AND_WAITS],
        env=environment_of(redis_config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert starter.stdout
    assert starter.stdin
    started = [int(pid) for pid in starter.stdout.readline().split()]
    assert all(psutil.pid_exists(pid) for pid in started)

    starter.kill()
    starter.wait()

    until(lambda: not any(psutil.pid_exists(pid) for pid in started), "they are gone")
    starter.stdin.close()
    starter.stdout.close()
