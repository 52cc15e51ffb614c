"""The process that supervises one embedded server: it starts and restarts the server, and ends it when it is idle.

It belongs to no agent and no terminal. The server never outlives it: on Linux the kernel kills the server with it, and
elsewhere a second process waits for its end. Killing the server loses nothing, since it answers a write only after it
has handed the data to the operating system.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, Self

from core.embedded_server.conversation import Conversation, NotRedis, Refusal
from core.embedded_server.server_conf import server_conf
from core.embedded_server.server_directory import EmbeddedStatus, ServerDirectory
from core.machine.forked import fork
from core.machine.prctl import die_with_parent
from core.machine.private_files import write_private
from core.machine.process_identity import this_process
from core.machine.signal_socket import SignalSocket
from core.restart_policy import RestartPolicy, Restarts

__all__ = ["SERVER_RESTARTS", "Orders", "Supervisor"]

_READY_POLL_S = 0.005
_ANSWER_S = 5.0
#: The server is restarted at once, since all clients wait for it.
SERVER_RESTARTS = RestartPolicy(intensity=5, period_s=60.0)
#: Seconds that a server may take to write its last data when it is asked to end.
_END_S = 10.0

_log = logging.getLogger("supervisor")


@dataclass(frozen=True, slots=True)
class Orders:
    """The arguments of a supervisor."""

    directory: str
    port: int
    bind: str  #: addresses, in the format of server.conf
    binary: str
    idle_s: float  #: the server ends this long after its last client has gone
    guard: Literal["kernel", "process"]  #: what ends the server if the supervisor is killed
    ready_fd: int  #: "ready" is written to it when the server is; it is closed without that if it never is


class Supervisor:
    """Supervises one server. It holds `lock`, an open descriptor, as long as it lives, and the server inherits it."""

    def __init__(self, orders: Orders, lock: int) -> None:
        self._orders = orders
        self._directory = ServerDirectory(Path(orders.directory))
        self._lock = lock
        self._socket_path = self._directory.socket_path()
        self._stop = False
        self._restarts = Restarts(SERVER_RESTARTS)
        self._ready_fd: int | None = orders.ready_fd
        self._signals = SignalSocket(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

    def run(self) -> None:
        """Runs until the server is stopped, is no longer needed, or cannot be kept running."""
        try:
            while self._serve_once():
                _log.info("the server died; starting it again")
        finally:
            self._directory.remove_socket(self._socket_path)

    def _serve_once(self) -> bool:
        """Runs one server from start to end. Returns whether it must be started again."""
        server = self._spawn()
        guard = _Guard.over(server.pid, self._lock) if self._orders.guard == "process" else None
        try:
            talk = self._ready(server)
            if talk is None:
                return False
            status = self._status(server, talk)
            with _Use(talk, lambda: self._enter(server)) as use:
                self._directory.use_binary(Path(self._orders.binary))  # only now, since it has read what there was
                self._directory.record(status)
                self._report_ready()
                _log.info("serving port %s as process %s", status.port, status.server_pid)
                self._watch(server, use, status)
            died = server.poll() is not None
            return died and not self._stop and self._restarts.after_death(time.monotonic()) is not None
        finally:
            self._directory.forget()
            _end(server)
            if guard is not None:
                guard.dismiss()

    def _spawn(self) -> subprocess.Popen[bytes]:
        text = server_conf(self._orders.port, self._orders.bind, self._socket_path, self._directory)
        write_private(self._directory.config_file, text)
        return subprocess.Popen(  # in the main thread, since the kernel ties the server to its thread
            [self._orders.binary, str(self._directory.config_file)],
            cwd=self._directory.path,
            stdin=subprocess.DEVNULL,
            pass_fds=[self._lock],
            preexec_fn=partial(die_with_parent, os.getpid()) if self._orders.guard == "kernel" else None,
        )

    def _ready(self, server: subprocess.Popen[bytes]) -> Conversation | None:
        """Waits until the server has loaded its data, and returns a conversation with it; None when it has ended, or
        must end."""
        while not self._stop and server.poll() is None:
            if (talk := self._enter(server)) is not None:
                return talk
            self._sleep(_READY_POLL_S)
        return None

    def _enter(self, server: subprocess.Popen[bytes]) -> Conversation | None:
        """A conversation with the server; None: it does not listen yet, is loading or busy, or is another process than
        ours."""
        try:
            talk = Conversation.over_unix_socket(str(self._socket_path), self._directory.password(), _ANSWER_S)
        except (OSError, Refusal, NotRedis):
            return None
        try:
            talk.ask("PING")
            if talk.info("server").get("process_id") == str(server.pid):
                return talk
        except (OSError, Refusal, NotRedis):
            pass
        talk.close()
        return None

    def _status(self, server: subprocess.Popen[bytes], talk: Conversation) -> EmbeddedStatus:
        about = talk.info("server")
        return EmbeddedStatus(
            port=self._orders.port,
            socket_path=str(self._socket_path),
            server_pid=server.pid,
            supervisor_pid=os.getpid(),
            supervisor=this_process(),
            binary=self._orders.binary,
            version=about.get("valkey_version") or about["redis_version"],
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            directory=str(self._directory.path),
        )

    def _watch(self, server: subprocess.Popen[bytes], use: _Use, status: EmbeddedStatus) -> None:
        """Waits until the server has ended, must end, or has had no clients for `idle_s`."""
        poll_s = min(2.0, self._orders.idle_s / 10)
        used_s = time.monotonic()
        while True:
            self._sleep(poll_s)
            if self._stop or server.poll() is not None:
                return
            if use.went_on():
                used_s = time.monotonic()
            elif time.monotonic() - used_s >= self._orders.idle_s:
                self._directory.forget()  # nobody finds it now; a client that found it before shows in one more check
                if not use.went_on():
                    _log.info("no client for %s s", self._orders.idle_s)
                    return
                self._directory.record(status)
                used_s = time.monotonic()

    def _report_ready(self) -> None:
        """Tells the process that started this one, once. That process may be gone."""
        if self._ready_fd is not None:
            with suppress(OSError):
                os.write(self._ready_fd, b"ready")
            os.close(self._ready_fd)
            self._ready_fd = None

    def _sleep(self, seconds: float) -> None:
        """Sleeps, but not longer than until a signal comes."""
        select.select([self._signals], [], [], seconds)
        if set(self._signals.take()) - {signal.SIGCHLD}:  # SIGCHLD only ends the sleep
            self._stop = True


class _Use:
    """Finds out whether anybody except the supervisor uses the server."""

    def __init__(self, talk: Conversation, enter: Callable[[], Conversation | None]) -> None:
        self._talk: Conversation | None = talk
        self._enter = enter
        self._connections = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._talk is not None:
            self._talk.close()

    def went_on(self) -> bool:
        """Whether others are connected, or were since the last call. True if the server does not answer."""
        self._talk = self._talk or self._enter()
        if self._talk is None:
            return True
        try:
            clients = int(self._talk.info("clients")["connected_clients"])
            connections = int(self._talk.info("stats")["total_connections_received"])
        except (OSError, Refusal, NotRedis):
            # The server is busy for longer than the timeout. Its reply may still come, so a new connection is needed.
            self._talk.close()
            self._talk = None
            return True
        before, self._connections = self._connections, connections
        return clients > 1 or connections != before


@dataclass(frozen=True, slots=True)
class _Guard:
    """A process that kills the server when the supervisor ends without dismissing it."""

    pid: int
    pipe: int

    @classmethod
    def over(cls, server_pid: int, lock: int) -> Self:
        its_end, ours = os.pipe()

        def wait_for_the_end() -> int:
            os.close(ours)
            os.close(lock)
            if not os.read(its_end, 1):
                os.kill(server_pid, signal.SIGKILL)
            return 0

        pid = fork(wait_for_the_end)
        os.close(its_end)
        return cls(pid, ours)

    def dismiss(self) -> None:
        os.write(self.pipe, b".")
        os.close(self.pipe)
        os.waitpid(self.pid, 0)


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(_END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
