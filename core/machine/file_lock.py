"""File locks, which the operating system releases when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import TransportDown

__all__ = ["is_locked", "locked", "try_lock"]

_POLL_S = 0.02


def try_lock(path: Path) -> int | None:
    """Takes the lock. Returns a descriptor, which holds it until the descriptor and all its inherited copies are
    closed; None: the lock is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether any process holds the lock."""
    if not path.exists():
        return False
    descriptor = try_lock(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Holds the lock during the block. Raises TransportDown when another process holds it for `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise TransportDown(f"another process has held {path} for {timeout_s:g} s. End it if it hangs.")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(descriptor)
