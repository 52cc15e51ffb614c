"""A Redis or Valkey server that belongs to one process, which may kill, stop and wipe it.

It listens on a Unix socket, in a directory with a short name (the path of a socket may have about 107 bytes), and
requires a password. On Linux it dies with the process that started it, even if that is killed; elsewhere it is stopped
at the end.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil

from core.embedded_server.conversation import Conversation, NotRedis, Refusal
from core.machine.fresh_interpreter import python_path
from core.module_names import module_name

__all__ = ["APPEND_ONLY", "RedisServer"]

#: Settings with which the append-only file is the complete history, with times, that `append_log` reads.
APPEND_ONLY = {
    "appendonly": "yes",
    "aof-use-rdb-preamble": "no",
    "auto-aof-rewrite-percentage": "0",
    "aof-timestamp-enabled": "yes",
}
START_S = 20.0
REPLY_S = 5.0
POLL_S = 0.005


class RedisServer:
    """One server process with its directory. Use it as a context manager: the server runs inside, and afterwards it and
    its files are gone."""

    def __init__(
        self,
        binary: Path,
        *,
        append_only: bool = False,
        fsync: Literal["everysec", "always", "no"] = "everysec",
        port: int = 0,
    ) -> None:
        """`append_only`: its data survive its end, see APPEND_ONLY. `fsync`: when they are written to the disk.
        `port`: it also listens there, on the loopback address; 0: only on its socket."""
        self.binary = binary
        self.append_only = append_only
        self.fsync = fsync
        self.port = port
        self.directory = Path(tempfile.mkdtemp(prefix="ar-", dir="/tmp"))
        self.password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    # ---- how to reach it ----

    @property
    def url(self) -> str:
        """The value for REDIS_URL; the password belongs in REDIS_PASSWORD."""
        if self.port:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"unix://{self.socket}?db=0"

    @property
    def socket(self) -> Path:
        return self.directory / "socket"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables by which our programs find this server."""
        return {"REDIS_URL": self.url, "REDIS_PASSWORD": self.password, "REDIS_MODE": "external"}

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def ask(self, *command: str) -> str:
        """The reply to one command: a status, a number or a text. Raises OSError, Refusal."""
        with self._conversation() as talk:
            return talk.ask(*command)

    def _conversation(self) -> Conversation:
        return Conversation.over_unix_socket(str(self.socket), self.password, REPLY_S)

    # ---- what is done to it ----

    def start(self) -> None:
        """Starts the server with the data in its directory, and returns when it answers."""
        tied = [sys.executable, "-S", "-m", module_name("core.machine.exec_with_parent"), str(os.getpid())]
        environment = {**os.environ, "PYTHONPATH": python_path()}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*tied, str(self.binary), "-"], env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        # It gets its settings on standard input, since everybody can read a password in a command line.
        assert self._process.stdin is not None
        self._process.stdin.write(self._settings().encode())
        self._process.stdin.close()
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.binary.name} does not answer: {self.log()}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """Sends SIGKILL. What is in the append-only file is there at the next `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Sends SIGSTOP, and returns when the server is stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        while psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(POLL_S / 5)

    def cont(self) -> None:
        """Sends SIGCONT, so that the server continues."""
        os.kill(self.pid, signal.SIGCONT)

    def lose_data(self) -> None:
        """Deletes its data. Call it between `kill` and `start`."""
        shutil.rmtree(self.append_directory, ignore_errors=True)

    def clean(self) -> None:
        """Makes the server run, empty and with its first settings, whatever a test has done to it."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.lose_data()
            self.start()
        self.ask("FLUSHALL")

    # ---- what it leaves behind ----

    @property
    def append_directory(self) -> Path:
        """The directory of its append-only file, which has several parts."""
        return self.directory / "appendonlydir"

    def write_log(self) -> None:
        """Waits until everything that it has answered is in its append-only file. While the disk is busy, it answers
        first, and writes up to two seconds later."""
        with self._conversation() as talk:
            while talk.info("persistence")["aof_buffer_length"] != "0":
                time.sleep(POLL_S)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def _settings(self) -> str:
        settings: Mapping[str, str] = {
            "port": f"{self.port}",
            "bind": "127.0.0.1",
            "unixsocket": f"{self.socket}",
            "unixsocketperm": "700",
            "dir": f"{self.directory}",
            "requirepass": self.password,
            **({**APPEND_ONLY, "appendfsync": self.fsync} if self.append_only else {"appendonly": "no"}),
            "save": '""',
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self.binary} ended: {self.log()}")
        try:
            return self.ask("PING") == "PONG"
        except (OSError, Refusal, NotRedis):
            return False  # not listening yet, or still loading its append-only file
