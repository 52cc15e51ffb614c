"""Finds the server to use: the configured one, or an embedded one, which is started if necessary.

The embedded server belongs to the user, not to a process: whoever comes first starts a supervisor for it, all others
find it by its state file, and it ends when nobody has been connected for half a minute. Its data stay.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import SecretStr

from core.config.directories import directory_of, private_directory
from core.config.endpoint import Endpoint
from core.config.settings import RedisConfig
from core.embedded_server.binary import server_binary
from core.embedded_server.probe import Found, Kind, look
from core.embedded_server.server_directory import EmbeddedStatus, ServerDirectory
from core.embedded_server.supervisor import Orders
from core.errors import ConfigError, TransportDown
from core.machine.file_lock import is_locked, locked
from core.machine.fresh_interpreter import python_path
from core.module_names import module_name

__all__ = ["EmbeddedStatus", "ensure_server", "ensure_server_blocking", "leftovers", "status", "stop"]

IDLE_S = 30.0
#: On this machine it is clear at once whether anything listens, but a server that listens may be busy.
_LOCAL_CONNECT_S, _REMOTE_CONNECT_S, _REPLY_S = 0.3, 2.0, 2.0
#: Seconds that a start may take, since a large file of data has to be loaded.
_START_S = 60.0
_POLL_S = 0.02
_LOG_LIMIT_BYTES = 1024 * 1024

Guard = Literal["kernel", "process"]
_GUARD: Guard = "kernel" if sys.platform.startswith("linux") else "process"


async def ensure_server(config: RedisConfig) -> RedisConfig:
    """`ensure_server_blocking` in a thread."""
    return await asyncio.to_thread(ensure_server_blocking, config)


def ensure_server_blocking(config: RedisConfig, *, _idle_s: float = IDLE_S, _guard: Guard = _GUARD) -> RedisConfig:
    """How to connect: `config` if its server answers, or else the embedded server's socket and password.

    When this returns, the server was there a moment ago. Any number of processes may call it at once and get the same
    server. Raises TransportDown when there is none and none may be started, or it does not start (exit code 69);
    ConfigError when something else has the port, the password is refused, or no server program is installed.
    """
    endpoint = config.endpoint
    can_embed = endpoint.is_local and endpoint.socket_path is None and not endpoint.use_tls
    if config.mode == "embedded" and not can_embed:
        raise ConfigError(
            f"REDIS_MODE=embedded serves this machine only, without TLS, and is not available at {endpoint}."
            "\nUnset REDIS_HOST, REDIS_URL and REDIS_USE_TLS, or set REDIS_MODE=external."
        )
    found = look(config, _LOCAL_CONNECT_S if endpoint.is_local else _REMOTE_CONNECT_S, _REPLY_S)
    if config.mode != "embedded" and found.kind in {Kind.READY, Kind.NOT_YET}:
        return config
    if config.mode == "external" or not can_embed:
        raise _no_server(endpoint, found)
    directory = _directory(config)
    if found.kind is not Kind.NOTHING and not is_locked(directory.alive_lock):
        raise _port_taken(endpoint, found)
    return _way_in(config, directory, _running(directory) or _started(directory, config, _idle_s, _guard))


def status(config: RedisConfig | None = None) -> EmbeddedStatus | None:
    """The embedded server for `config`'s port and data directory; None: none runs, or it does not answer."""
    return _running(_directory(config))


def stop(timeout_s: float = 15.0, config: RedisConfig | None = None) -> bool:
    """Ends the embedded server, if one runs, after it has written its data. Returns whether one ran.

    Raises TransportDown when it is still there after `timeout_s`.
    """
    directory = _directory(config)
    deadline_s = time.monotonic() + timeout_s
    found = asked = False
    while is_locked(directory.alive_lock):
        found = True
        if not asked and (recorded := directory.recorded()) is not None:
            if recorded.supervised:
                with suppress(ProcessLookupError):
                    os.kill(recorded.supervisor_pid, signal.SIGTERM)
                asked = True
            else:
                _end_leftover(directory)
        if time.monotonic() > deadline_s:
            raise TransportDown(f"the embedded server has not ended within {timeout_s:g} s. See {directory.log}")
        time.sleep(_POLL_S)
    return found


def leftovers(config: RedisConfig | None = None) -> list[EmbeddedStatus]:
    """The embedded servers that live although their supervisor is gone. `stop` ends one, and so does the next start."""
    alive = (
        ServerDirectory(path).answering(_REPLY_S) for path in directory_of(config or RedisConfig()).glob("embedded-*/")
    )
    return [server for server in alive if server is not None and not server.supervised]


def _directory(config: RedisConfig | None) -> ServerDirectory:
    config = config or RedisConfig()
    return ServerDirectory(private_directory(directory_of(config) / f"embedded-{config.endpoint.port}"))


def _running(directory: ServerDirectory) -> EmbeddedStatus | None:
    server = directory.answering(_REPLY_S)
    return server if server is not None and server.supervised else None


def _way_in(config: RedisConfig, directory: ServerDirectory, server: EmbeddedStatus) -> RedisConfig:
    return RedisConfig(
        url=SecretStr(f"unix://{quote(server.socket_path)}?db={config.endpoint.db}"),
        password=SecretStr(directory.password()),
        mode="external",
        data_dir=config.data_dir,
    )


def _started(directory: ServerDirectory, config: RedisConfig, idle_s: float, guard: Guard) -> EmbeddedStatus:
    """Starts a supervisor, unless another process does, and waits for the server in either case."""
    deadline_s = time.monotonic() + _START_S
    with locked(directory.start_lock, _START_S):
        while (server := _running(directory)) is None:
            if not is_locked(directory.alive_lock):
                _start(directory, config, idle_s, guard, deadline_s)
            elif not _end_leftover(directory):
                time.sleep(_POLL_S)  # one is starting or ending
            if time.monotonic() > deadline_s:
                raise TransportDown(f"the embedded server is not ready after {_START_S:g} s. See {directory.log}")
    return server


def _end_leftover(directory: ServerDirectory) -> bool:
    """Kills a server whose supervisor is gone, which loses no data. Returns whether it did."""
    server = directory.answering(_REPLY_S)
    if server is None or server.supervised:
        return False
    with suppress(ProcessLookupError):
        os.kill(server.server_pid, signal.SIGKILL)  # its answer on the private socket has proved its pid
    return True


def _start(directory: ServerDirectory, config: RedisConfig, idle_s: float, guard: Guard, deadline_s: float) -> None:
    """Starts a supervisor, and returns when its server is ready. Raises ConfigError or TransportDown when it has ended
    instead."""
    wrote_the_data = directory.used_binary()
    binary = server_binary(wrote_the_data)
    read_end, write_end = os.pipe()
    endpoint = config.endpoint
    bind = "127.0.0.1 -::1" if endpoint.host.lower().startswith("localhost") else endpoint.host
    orders = Orders(str(directory.path), endpoint.port, bind, str(binary), idle_s, guard, write_end)
    log_begins = _rotated(directory.log)
    try:
        with os.fdopen(os.open(directory.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            subprocess.run(
                [sys.executable, "-m", module_name("core.embedded_server"), json.dumps(asdict(orders))],
                cwd=directory.path,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                start_new_session=True,
                check=False,
            )
    finally:
        os.close(write_end)
    with open(read_end, "rb", buffering=0) as report:
        said = (
            report.read(16) if select.select([report], [], [], max(0.0, deadline_s - time.monotonic()))[0] else b"late"
        )
    if said == b"":
        _explain(directory, config, log_begins, binary, wrote_the_data)


def _explain(
    directory: ServerDirectory, config: RedisConfig, log_begins: int, binary: Path, wrote_the_data: Path | None
) -> None:
    """Raises the reason why the supervisor has ended; returns if another supervisor was faster."""
    if is_locked(directory.alive_lock):
        return
    found = look(config, _LOCAL_CONNECT_S, _REPLY_S)
    if found.kind is not Kind.NOTHING:
        raise _port_taken(config.endpoint, found)
    last = directory.log.read_bytes()[log_begins:].decode(errors="replace").strip().splitlines()[-5:]
    said = ["the embedded server did not start:", *last, f"All of it is in {directory.log}"]
    if wrote_the_data not in (None, binary):
        said.append(
            f"Its data were written by {wrote_the_data}, which is gone, and {binary} may not be able to read them."
            f"\nInstall that server again, or move {directory.path} away to begin without data."
        )
    raise TransportDown("\n".join(said))


def _rotated(log: Path) -> int:
    """The size of the log in bytes. A log that has become long is renamed first."""
    size = log.stat().st_size if log.exists() else 0
    if size > _LOG_LIMIT_BYTES:
        log.replace(log.with_name("log.1"))
        return 0
    return size


def _environment() -> dict[str, str]:
    """The environment variables for the supervisor: enough to run it, and no secrets, since it outlives the process
    that starts it."""
    kept = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "PYTHONHOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return {**environment, "PYTHONPATH": python_path()}


def _no_server(endpoint: Endpoint, found: Found) -> ConfigError | TransportDown:
    if found.kind is Kind.NO_ENTRY:
        return ConfigError(
            f"Redis at {endpoint} refuses to let us in: {found.why.rstrip('.')}."
            "\nSet REDIS_PASSWORD (and REDIS_USERNAME), or REDIS_URL, to what it wants."
        )
    return TransportDown(
        f"Redis does not answer at {endpoint}: {found.why}."
        "\nStart it there, or set REDIS_URL to another one; with REDIS_MODE=auto and no REDIS_URL and REDIS_HOST,"
        " a server of this machine's own is started."
    )


def _port_taken(endpoint: Endpoint, found: Found) -> ConfigError:
    if found.kind is Kind.NO_ENTRY:
        cure = "Set REDIS_PASSWORD to its password, or REDIS_PORT to a free port for a server of our own."
    elif found.kind is Kind.OTHER:
        cure = "Set REDIS_PORT to the port of Redis, or to a free one for a server of our own."
    else:
        cure = "Set REDIS_PORT to a free port, or REDIS_MODE=auto to use the Redis that is there."
    return ConfigError(f"the port of {endpoint} is taken: {found.why.rstrip('.')}.\n{cure}")
