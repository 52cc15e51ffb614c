"""The directory in which this user's agents keep local data."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

from core.config.settings import RedisConfig
from core.errors import ConfigError

__all__ = ["data_dir", "directory_of", "private_directory"]


def data_dir() -> Path:
    """This user's directory for the embedded server's data and the secrets of this machine. A missing directory is made
    (mode 700).

    It is AGENT_DATA_DIR, or else `agent-system` below XDG_DATA_HOME or the platform's usual place. Raises ConfigError
    when it cannot be used.
    """
    return private_directory(Path(os.environ.get("AGENT_DATA_DIR") or user_data_path("agent-system")))


def directory_of(redis: RedisConfig) -> Path:
    """The data directory that `redis` names, or else this user's. Raises ConfigError when it cannot be used."""
    return private_directory(redis.data_dir) if redis.data_dir else data_dir()


def private_directory(path: Path) -> Path:
    """The absolute `path` of a directory, which is made (mode 700) if missing. Raises ConfigError when it cannot be
    used, or others could write to it."""
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise ConfigError(
            f"AGENT_DATA_DIR: {path} cannot be used: {error.strerror}. Set it to a directory you own."
        ) from error
    if found.st_uid not in {os.geteuid(), 0} or found.st_mode & 0o022:
        raise ConfigError(f"AGENT_DATA_DIR: others can write to {path}. Set another one, or: chmod 700 {path}")
    return path
