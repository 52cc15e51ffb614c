"""What all tests share: an environment without surprises, and a server of their own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis.asyncio

if TYPE_CHECKING:
    from core.chaos.processes import Processes
    from core.config.settings import RedisConfig
    from tests.redis_server import RedisServer

ROOT = Path(__file__).parent.parent

#: What configures us. Whatever the caller's shell or .env holds, the tests mean the defaults.
OURS = (
    "REDIS_",
    "A2A_",
    "AGENT_",
    "COORDINATOR_",
    "DISTRIBUTOR_",
    "WORKER_",
    "TASK_",
    "DEAD_LETTER_",
    "LOG_",
    "LANGCHAIN_",
    "LANGSMITH_",
)
ALSO_OURS = ("DRAIN_TIMEOUT", "MAX_OPEN_TASKS", "MEMORY_HIGH_WATER", "MODEL_PRICES", "NO_COLOR", "FORCE_COLOR")

_data_dir = Path(tempfile.mkdtemp(prefix="ad-", dir="/tmp"))  # one per test process; short, since sockets live in it


def pytest_configure() -> None:
    """Before any of our modules is imported: some read the environment when they are."""
    for name in list(os.environ):
        if name.startswith(OURS) or name in ALSO_OURS:
            del os.environ[name]
    os.environ["AGENT_DATA_DIR"] = str(_data_dir)
    os.environ["LANGSMITH_TRACING"] = "false"
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT}/deploy/package"  # for processes that the tests start anywhere
    # A shell that runs the tests in the background ignores Ctrl-C for them, and so for all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(_data_dir, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows how long each part of the tests has taken, over all processes, with what its fixtures took."""
    seconds: defaultdict[str, float] = defaultdict(float)
    tests: defaultdict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                part = "/".join(report.nodeid.partition("::")[0].split("/")[:2])
                seconds[part] += report.duration
                tests[part].add(report.nodeid)
    terminalreporter.section("seconds by part")
    for part, took_s in sorted(seconds.items(), key=lambda each: -each[1]):
        terminalreporter.write_line(f"{took_s:8.1f} s  {part} ({len(tests[part])} tests)")


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in an empty directory: it reads no .env of yours and leaves nothing in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", params=["bundled", pytest.param("redis", marks=pytest.mark.real_redis)])
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server that no other process uses; a test that wants it empty asks for `redis_config` as well.

    What uses it runs twice: on the bundled Valkey and on the Redis of this machine.
    """
    from tests.redis_server import RedisServer, bundled_server

    with RedisServer(installed_or_skip() if request.param == "redis" else bundled_server()) as server:
        yield server


def installed_or_skip() -> Path:
    """redis-server of this machine; where there is none the test is skipped, in CI it fails."""
    from tests.redis_server import installed_redis

    found = installed_redis()
    if found is None:
        cure = "there is no redis-server on the PATH (Debian, Ubuntu: apt install redis-server)"
        if os.environ.get("CI"):
            pytest.fail(cure)
        pytest.skip(cure)
    return found


@pytest.fixture
def redis_config(redis_server: RedisServer) -> RedisConfig:
    """How our code reaches `redis_server`, which is empty at the start of each test."""
    from core.config.settings import RedisConfig

    redis_server.clean()
    return RedisConfig(url=redis_server.url, password=redis_server.password, mode="external")


@pytest.fixture
async def client(redis_server: RedisServer, redis_config: RedisConfig) -> AsyncIterator[redis.asyncio.Redis]:
    """redis-py itself, in bytes, to look at what is in the server behind the back of our code."""
    async with redis.asyncio.Redis(
        unix_socket_path=str(redis_server.directory / "socket"), password=redis_server.password
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """What agents are forked from."""
    from core.chaos.processes import Processes

    with Processes(tmp_path_factory.mktemp("agents"), {}) as processes:
        yield processes
