"""Where an embedded server keeps its things, and the record by which every process finds it.

DATA/embedded-PORT/
    password        generated once, mode 600; the server reads it from server.conf, never from its arguments
    server.conf     written before each start
    state.json      who runs now; there only while the server takes clients
    start.lock      held by who is about to start a supervisor, so that twelve agents start one
    alive.lock      held by the supervisor and, by inheritance, the server: free means that both are gone
    binary          the program that wrote the data
    log             of supervisor and server
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

#: what an address of a Unix socket may have, on the strictest of the systems (macOS: 104 with the end)
_SOCKET_PATH_BYTES = 100


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """A server of ours, as its supervisor recorded it."""

    port: int  #: on the loopback address
    socket_path: str
    server_pid: int
    supervisor_pid: int
    supervisor: str  #: machine/pid/start: tells a reused pid apart
    binary: str
    version: str
    started_at: str  #: UTC, ISO 8601
    directory: str  #: its data, its log

    @property
    def supervised(self) -> bool:
        """Whether the process that looks after it lives."""
        try:
            os.kill(self.supervisor_pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's process, so the number has been reused
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
        """Beside the data where the path is short enough for a socket, else in a fresh directory (mode 700) for it."""
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
        """What the state file says, true or not; None: there is none, or it is not ours."""
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
        """The recorded server, if it answers on its socket, takes our password and is the recorded process.

        A PING would not do: another server may have taken the place of one that died.
        """
        status = self.recorded()
        if status is None:
            return None
        try:
            with Conversation.over_unix_socket(status.socket_path, self.password(), timeout_s) as talk:
                return status if talk.info("server").get("process_id") == str(status.server_pid) else None
        except (OSError, Refusal, NotRedis):
            return None
