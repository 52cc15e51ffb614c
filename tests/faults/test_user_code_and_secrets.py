"""User code goes for the secrets of the processes around it, which belong to the same user."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.config.variables import secret_text
from core.errors import ConfigError, TransportDown
from core.tasks import Task
from tests.faults.prying_code import WAYS
from tests.installation import Installation
from tests.process_memory import core_limit_of, environment_shown_of
from tests.tiers import Tiers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system has other ways, which it guards")

SECRET = "what-nobody-but-agents-may-know-27182818"
PREVIOUS = "what-they-knew-before-it-31415926"
PR_CAPBSET_DROP, CAPABILITIES, VERSION_3 = 24, range(64), 0x20080522
REFUSED = dict.fromkeys(WAYS, "refused")


def as_a_mere_user(start: Callable[[], object]) -> None:
    """Starts processes without capabilities, in a thread, since those are a thread's own: to root without them its
    processes are what they are to any other user. Whoever has more than a process does not get into that anyway."""
    with ThreadPoolExecutor(1, initializer=drop_capabilities) as thread:
        thread.submit(start).result()


def drop_capabilities() -> None:
    libc = ctypes.CDLL(None)
    for capability in CAPABILITIES:
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capset(header, none) == 0


@pytest.fixture
def tiers(redis_config: RedisConfig, tmp_path: Path) -> Iterator[Tiers]:
    with Tiers(redis_config, tmp_path, A2A_TOKEN_SECRET=SECRET, A2A_PREVIOUS_SECRET=PREVIOUS) as tiers:
        parents = ("--coordinator", "k", "--distributor", "d")
        as_a_mere_user(lambda: tiers.start("coordinator", "k"))
        as_a_mere_user(lambda: tiers.start("distributor", "d", *parents[:2]))
        as_a_mere_user(lambda: tiers.start("worker", "w", *parents, "--import", "tests.faults.prying_code"))
        yield tiers


def assert_shows_nothing(pid: int, *secrets: str) -> None:
    shown = environment_shown_of(pid)
    assert not [secret for secret in secrets if secret.encode() in shown]
    assert core_limit_of(pid) == ("0", "0")


# What is tested here is the same on every server.
@pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")
def test_user_code_gets_into_no_process_of_a_tier_and_none_of_them_shows_a_secret_or_leaves_a_core_dump(
    tiers: Tiers,
) -> None:
    with AgentClient(tiers.redis, A2AConfig(agent_id="c", token_secret=SECRET), "k", "c") as client:
        pids = [tiers.pid(agent_id) for agent_id in ("w", "d", "k")]
        assert client.value(client.submit(Task(task_type="pry", payload=pids), 60), 60) == [REFUSED] * 3
        for pid in pids:
            assert_shows_nothing(pid, SECRET, PREVIOUS, secret_text(tiers.redis.password) or "")
        looked_at = client.value(client.submit(Task(task_type="own_inspectability"), 60), 60)
        read_again = client.value(client.submit(Task(task_type="settings_read_again"), 60), 60)

    assert looked_at == 1  # user code can be debugged, it has no secrets
    assert read_again == {"settings": True, "environment": False}


def test_a_password_in_a_flag_is_refused_with_the_cure_and_not_shown_again() -> None:
    program = (
        "import coordinator.__main__, distributor.__main__, worker.__main__;"
        "flags = ['--redis-url', 'redis://a-user:hunter2@localhost:1/0'];"
        "print([tier.__main__.main(flags) for tier in (coordinator, distributor, worker)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{[ConfigError.exit_code] * 3}\n"
    assert done.stderr.count("REDIS_PASSWORD_FILE") == 3
    assert "hunter2" not in done.stderr


def test_an_agent_warns_once_of_a_secret_that_other_users_can_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o644)
    nowhere = {"REDIS_URL": "unix:///nowhere/redis.sock", "A2A_TOKEN_SECRET": "", "A2A_TOKEN_SECRET_FILE": "secret"}
    with Tiers(RedisConfig(), tmp_path, **nowhere) as tiers:
        tiers.start("coordinator", "k")
        assert tiers.exit_code("k") == TransportDown.exit_code
        assert tiers.log("k").count('"action": "secret_file_open"') == 1
        assert "chmod 600 secret" in tiers.log("k")


def test_user_code_gets_into_none_of_the_processes_that_agents_up_has_started() -> None:
    with Installation.opened() as here:
        here.environment["A2A_TOKEN_SECRET"] = SECRET
        as_a_mere_user(lambda: here.up("--workers", "1", "--import", "tests.faults.prying_code"))
        pids = [here.record()["pid"], *here.pids().values()]
        outcomes = json.loads(here.agents("submit", "pry", f"{pids}", "--wait").stdout)
        for pid in pids:
            assert_shows_nothing(pid, SECRET, here.environment["REDIS_PASSWORD"])

    assert outcomes == [REFUSED] * 4
