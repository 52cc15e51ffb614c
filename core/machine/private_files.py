"""Files that only this user can read, and secrets that are made once and shared by all processes of the user."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from core.errors import ConfigError
from core.machine.file_lock import locked

__all__ = ["is_open_to_others", "kept_secret", "write_private"]

_LOCK_TIMEOUT_S = 5.0


def kept_secret(path: Path) -> str:
    """The secret in a file. A missing file is made (mode 600, 256 random bits). Parallel callers get the same secret.

    Raises ConfigError when the file is empty, or others can read it; TransportDown when another process holds its lock
    for too long.
    """
    if not path.exists():
        with locked(path.with_name(f"{path.name}.lock"), _LOCK_TIMEOUT_S):
            if not path.exists():
                write_private(path, secrets.token_urlsafe(32) + "\n")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"others can read the secret in {path}. Remove the file for a new one, or: chmod 600 {path}")
    text = path.read_text().strip()
    if not text:
        raise ConfigError(f"the secret in {path} is empty. Remove the file, and a new one is made.")
    return text


def is_open_to_others(path: Path) -> bool:
    """Whether anybody except its owner and group can read the file, or anybody except its owner can write to it.

    The group may read it, since that is how orchestrators pass secrets to a process that is not root.
    """
    return bool(path.stat().st_mode & 0o026)


def write_private(path: Path, text: str) -> None:
    """Replaces a file atomically. Nobody else can read it at any time, and after a crash either the old or the new file
    is there."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
