"""The embedded server with real processes and real signals: found, shared, supervised, ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil
import pytest

from core.config.settings import RedisConfig
from core.embedded_server.embedded import EmbeddedStatus, ensure_server_blocking, leftovers, status, stop
from core.errors import ConfigError, TransportDown
from core.redis_client import Wire
from tests.process_memory import core_limit_of
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until, until_async

#: Another terminal: an agent that finds the server, or starts it, and says who it is.
AGENT = """
import sys
from pathlib import Path
from core.config.settings import RedisConfig
from core.embedded_server.embedded import ensure_server_blocking, status
config = RedisConfig(port=int(sys.argv[1]), data_dir=Path(sys.argv[2]))
way_in = ensure_server_blocking(config)
found = status(config)
print(found.server_pid, way_in.endpoint.socket_path, way_in.password.get_secret_value(), flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config() -> Iterator[RedisConfig]:
    """A free port, an empty data directory with a short name, and no server of ours left in the end."""
    data = Path(tempfile.mkdtemp(prefix="ae-", dir="/tmp"))
    config = RedisConfig(port=free_port(), data_dir=data)
    yield config
    stop(config=config)
    shutil.rmtree(data)


def agent(config: RedisConfig) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", AGENT, str(config.port), str(config.data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def running(config: RedisConfig) -> EmbeddedStatus:
    found = status(config)
    assert found is not None
    return found


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def ask(config: RedisConfig, *command: str) -> object:
    wire = Wire(config)
    await wire.connect()
    try:
        return (await wire.exchange([command]))[0]
    finally:
        await wire.close()


def test_twelve_agents_that_start_at_once_share_one_server(config: RedisConfig) -> None:
    agents = [agent(config) for _ in range(12)]
    said = {process.communicate(timeout=60)[0] for process in agents}

    assert [process.returncode for process in agents] == [0] * 12
    assert len(said) == 1
    assert said.pop().split()[0] == str(running(config).server_pid)


async def test_an_agent_in_another_terminal_finds_server_and_password_of_the_first(config: RedisConfig) -> None:
    first = agent(config)
    assert first.stdout is not None
    first_said = first.stdout.readline()
    second_said = agent(config).communicate(timeout=30)[0]
    first.communicate(timeout=30)

    assert second_said == first_said


async def test_killing_the_agent_that_started_the_server_does_not_take_it_down(config: RedisConfig) -> None:
    starter = agent(config)
    assert starter.stdout is not None
    server_pid = int(starter.stdout.readline().split()[0])

    starter.kill()
    starter.communicate()

    assert running(config).server_pid == server_pid
    assert await ask(ensure_server_blocking(config), "PING") == b"PONG"


@pytest.mark.parametrize(
    "guard", ["process", pytest.param("kernel", marks=pytest.mark.skipif("sys.platform != 'linux'"))]
)
async def test_the_server_is_gone_within_5_s_of_a_supervisor_killed_and_loses_nothing(
    config: RedisConfig, guard: Literal["kernel", "process"]
) -> None:
    before = ensure_server_blocking(config, _guard=guard)
    assert await ask(before, "SET", "kept", "yes") == b"OK"
    killed = running(config)

    os.kill(killed.supervisor_pid, signal.SIGKILL)
    until(lambda: gone(killed.server_pid), "the server has ended", timeout_s=5)

    assert status(config) is None
    after = ensure_server_blocking(config)
    assert running(config).server_pid != killed.server_pid
    assert after.password == before.password
    assert await ask(after, "GET", "kept") == b"yes"


async def test_it_ends_when_the_last_client_has_been_gone_for_a_while_and_not_before(config: RedisConfig) -> None:
    idle_s = 0.4
    wire = Wire(ensure_server_blocking(config, _idle_s=idle_s))
    await wire.connect()
    connected_s = time.monotonic()
    server = running(config)

    await until_async(lambda: time.monotonic() - connected_s > 3 * idle_s, "the client has been there for long")
    assert not gone(server.server_pid)

    await wire.close()
    await until_async(lambda: gone(server.server_pid) and gone(server.supervisor_pid), "server and supervisor ended")
    assert status(config) is None


async def test_what_was_stored_is_there_after_stop_and_start(config: RedisConfig) -> None:
    await ask(ensure_server_blocking(config), "SET", "kept", "yes")

    assert stop(config=config) is True
    assert stop(config=config) is False
    assert status(config) is None
    assert await ask(ensure_server_blocking(config), "GET", "kept") == b"yes"


async def test_a_server_that_was_killed_is_started_again_by_its_supervisor(config: RedisConfig) -> None:
    way_in = ensure_server_blocking(config)
    await ask(way_in, "SET", "kept", "yes")
    first = running(config)

    os.kill(first.server_pid, signal.SIGKILL)
    until(lambda: status(config), "another server runs")

    second = running(config)
    assert (second.supervisor_pid, second.socket_path) == (first.supervisor_pid, first.socket_path)
    assert second.server_pid != first.server_pid
    assert await ask(way_in, "GET", "kept") == b"yes"


async def test_a_server_that_lost_its_supervisor_is_reported_and_replaced_with_its_data(config: RedisConfig) -> None:
    await ask(ensure_server_blocking(config, _guard="process"), "SET", "kept", "yes")
    server = running(config)
    guards = [child for child in psutil.Process(server.supervisor_pid).children() if child.pid != server.server_pid]

    for process in (*guards, psutil.Process(server.supervisor_pid)):
        process.kill()
    until(lambda: gone(server.supervisor_pid), "the supervisor is gone")

    assert leftovers(config) == [server]
    assert await ask(ensure_server_blocking(config), "GET", "kept") == b"yes"
    assert gone(server.server_pid)
    assert leftovers(config) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are read from /proc")
def test_neither_the_server_with_its_data_nor_its_supervisor_leaves_a_core_dump(config: RedisConfig) -> None:
    ensure_server_blocking(config)
    server = running(config)
    assert core_limit_of(server.server_pid) == core_limit_of(server.supervisor_pid) == ("0", "0")


def test_the_password_and_the_starters_secrets_are_in_no_argument_and_no_environment(
    config: RedisConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A2A_TOKEN_SECRET", "a secret of the starter")
    password = ensure_server_blocking(config).endpoint.password
    assert password is not None
    server = running(config)

    for process in (psutil.Process(server.server_pid), psutil.Process(server.supervisor_pid)):
        shown = repr(process.cmdline())
        with suppress(psutil.AccessDenied):  # the supervisor shows the rest to root alone
            shown += repr(process.environ())
        assert password.get_secret_value() not in shown
        assert "a secret of the starter" not in shown
    readable = [
        path.name for path in Path(server.directory).iterdir() if path.is_file() and path.stat().st_mode & 0o077
    ]
    assert readable == []


def test_a_data_directory_too_deep_for_a_socket_gets_it_elsewhere_and_cleans_up(config: RedisConfig) -> None:
    assert config.data_dir is not None
    deep = config.model_copy(update={"data_dir": config.data_dir / ("d" * 50) / ("e" * 50)})

    way_in = ensure_server_blocking(deep)
    folder = Path(way_in.endpoint.socket_path or "").parent

    assert len(str(folder)) < 80
    assert folder.stat().st_mode & 0o077 == 0
    stop(config=deep)
    assert not folder.exists()


async def test_without_a_server_on_the_path_the_bundled_one_runs_and_keeps_the_data_it_wrote(
    config: RedisConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bare:
        bare.setenv("PATH", "")
        await ask(ensure_server_blocking(config), "SET", "kept", "yes")
        assert running(config).binary == str(bundled_server())
    stop(config=config)

    assert await ask(ensure_server_blocking(config), "GET", "kept") == b"yes"
    assert running(config).binary == str(bundled_server())


async def test_data_of_a_server_that_is_gone_are_read_by_one_of_its_kind_or_by_nobody(
    config: RedisConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, system = tmp_path / "venv", tmp_path / "system"
    for folder in (venv, system):
        folder.mkdir()
    (venv / "valkey-server").symlink_to(bundled_server())
    other_kind = system / "redis-server"
    other_kind.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && exec {bundled_server()} --version\necho Bad file format\nexit 1\n"
    )
    other_kind.chmod(0o755)
    monkeypatch.setattr("core.embedded_server.binary.find_spec", lambda name: None)
    with monkeypatch.context() as alone:
        alone.setenv("PATH", str(venv))
        await ask(ensure_server_blocking(config), "SET", "kept", "yes")
    stop(config=config)
    (venv / "valkey-server").unlink()
    monkeypatch.setenv("PATH", f"{system}:/usr/bin:/bin")
    other_kind.rename(system / "valkey-server")
    with pytest.raises(TransportDown, match=r"written by .*/venv/valkey-server, which is gone.*\nInstall that server"):
        ensure_server_blocking(config)

    (system / "valkey-server").rename(other_kind)
    (system / "valkey-server").symlink_to(bundled_server())
    assert await ask(ensure_server_blocking(config), "GET", "kept") == b"yes"
    assert running(config).binary == str(system / "valkey-server")


async def test_a_redis_that_answers_at_the_configured_address_is_used_as_it_is(config: RedisConfig) -> None:
    with RedisServer(bundled_server(), port=config.port) as server:
        mine = config.model_copy(update={"password": server.password})

        assert ensure_server_blocking(mine) is mine
        assert status(config) is None


def test_a_redis_with_a_password_we_do_not_have_is_an_error_that_names_the_variable(config: RedisConfig) -> None:
    with RedisServer(bundled_server(), port=config.port), pytest.raises(ConfigError, match="REDIS_PASSWORD"):
        ensure_server_blocking(config)


@pytest.mark.parametrize("mode", ["auto", "embedded"])
def test_a_port_that_something_else_has_is_an_error_that_names_the_variable(
    config: RedisConfig, mode: Literal["auto", "embedded"]
) -> None:
    with socket.create_server(("127.0.0.1", config.port)) as other:
        other.listen()
        taken = config.model_copy(update={"mode": mode})
        with pytest.raises(ConfigError, match=r"is taken.*\n.*REDIS_PORT"):
            ensure_server_blocking(taken)
    assert status(config) is None


def test_what_answers_and_is_no_redis_is_quoted_as_a_proxy_may_answer_for_a_host_that_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(TransportDown, match=r"it said 'HTTP/1.1 400 Bad Request': .*a proxy on the way"):
            ensure_server_blocking(RedisConfig(port=other.getsockname()[1], mode="external"))
        answering.join()


@pytest.mark.parametrize(
    "nowhere",
    [
        RedisConfig(host="redis.invalid"),
        RedisConfig(url="unix:///nowhere/socket"),
        RedisConfig(port=1, mode="external"),
        RedisConfig(port=1, use_tls=True),
    ],
    ids=str,
)
def test_without_a_server_that_may_be_started_here_the_error_has_exit_code_69_and_a_cure_in_two_lines(
    nowhere: RedisConfig,
) -> None:
    with pytest.raises(TransportDown, match="REDIS_URL") as caught:
        ensure_server_blocking(nowhere)

    assert caught.value.exit_code == 69
    assert len(str(caught.value).splitlines()) == 2


def test_an_embedded_server_cannot_be_asked_for_at_another_machine() -> None:
    with pytest.raises(ConfigError, match="REDIS_MODE=embedded"):
        ensure_server_blocking(RedisConfig(host="redis.example", mode="embedded"))
