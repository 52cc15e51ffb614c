"""The directory of an embedded server, and the record by which every process finds the server.

DATA/embedded-PORT/
    password        generated once, mode 600; the server reads it from server.conf, never from its arguments
    server.conf     written before each start
    state.json      the processes that run now; it exists only while the server accepts clients
    start.lock      held by a process that starts a supervisor, so that agents that start together start only one
    alive.lock      held by the supervisor and, by inheritance, the server; if it is free, both are gone
    binary          the program that last read the data, and writes them
    log             the log of supervisor and server
    appendonlydir/  the data
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from core.embedded_server.conversation import Conversation, NotRedis, Refusal
from core.machine.private_files import kept_secret, write_private
from core.machine.process_identity import provably_dead

__all__ = ["EmbeddedStatus", "ServerDirectory"]

#: Maximal length of the path of a Unix socket on the strictest system (macOS: 104 with its end).
_SOCKET_PATH_BYTES = 100


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """An embedded server, as its supervisor has recorded it."""

    port: int  #: on the loopback address
    socket_path: str
    server_pid: int
    supervisor_pid: int
    supervisor: str  #: machine/pid/start of the supervisor, since its pid may be reused
    binary: str
    version: str
    started_at: str  #: UTC, ISO 8601
    directory: str  #: where its data and its log are

    @property
    def supervised(self) -> bool:
        """Whether its supervisor lives."""
        try:
            os.kill(self.supervisor_pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's process has this pid now
            return False
        return not provably_dead(self.supervisor)


@dataclass(frozen=True, slots=True)
class ServerDirectory:
    """The directory of one embedded server."""

    path: Path

    @property
    def start_lock(self) -> Path:
        return self.path / "start.lock"

    @property
    def alive_lock(self) -> Path:
        return self.path / "alive.lock"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def config_file(self) -> Path:
        return self.path / "server.conf"

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    def password(self) -> str:
        return kept_secret(self.path / "password")

    def socket_path(self) -> Path:
        """The path of the socket: beside the data if that is short enough for a socket, or else in a new directory
        (mode 700)."""
        beside = self.path / "redis.sock"
        if len(os.fsencode(beside)) <= _SOCKET_PATH_BYTES:
            return beside
        return Path(tempfile.mkdtemp(prefix="agent-system-")) / "redis.sock"

    def remove_socket(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.parent != self.path:
            path.parent.rmdir()

    def record(self, status: EmbeddedStatus) -> None:
        write_private(self._state, json.dumps(asdict(status)))

    def forget(self) -> None:
        self._state.unlink(missing_ok=True)

    def recorded(self) -> EmbeddedStatus | None:
        """What the state file says, which may be outdated; None: there is no such file, or it is not ours."""
        try:
            return EmbeddedStatus(**json.loads(self._state.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def used_binary(self) -> Path | None:
        record = self.path / "binary"
        return Path(record.read_text().strip()) if record.exists() else None

    def use_binary(self, binary: Path) -> None:
        write_private(self.path / "binary", f"{binary}\n")

    def answering(self, timeout_s: float) -> EmbeddedStatus | None:
        """The recorded server, if it answers on its socket, accepts our password and is the recorded process.

        A PING would not be enough, since another server may have replaced one that died.
        """
        status = self.recorded()
        if status is None:
            return None
        try:
            with Conversation.over_unix_socket(status.socket_path, self.password(), timeout_s) as talk:
                return status if talk.info("server").get("process_id") == str(status.server_pid) else None
        except (OSError, Refusal, NotRedis):
            return None
