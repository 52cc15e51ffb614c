"""Where a user's data lies on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from core.errors import ConfigError

__all__ = ["data_dir", "private_directory"]


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """This user's directory for the embedded server's data and the secrets of this machine, made (mode 700) if missing.

    AGENT_DATA_DIR, else `agent-system` below XDG_DATA_HOME or the platform's usual place.
    """
    if environ.get("AGENT_DATA_DIR"):
        return private_directory(Path(environ["AGENT_DATA_DIR"]))
    if sys.platform == "darwin":
        return private_directory(Path.home() / "Library" / "Application Support" / "agent-system")
    shared = environ.get("XDG_DATA_HOME") or ""
    base = Path(shared) if os.path.isabs(shared) else Path.home() / ".local" / "share"
    return private_directory(base / "agent-system")


def private_directory(path: Path) -> Path:
    """`path`, absolute and made (mode 700) if missing. Raises ConfigError when others could write to it."""
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
