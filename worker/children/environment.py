"""Keeps the system's own secrets out of processes that run user code."""

from __future__ import annotations

import ctypes
import os
import sys

from core.machine.prctl import allow_inspection
from core.machine.process_secrets import ARGUMENTS, SECRETS, block, guard

__all__ = ["forget_secrets", "without_secrets"]


def without_secrets() -> dict[str, str]:
    """The environment variables for a new process, without the secrets."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def forget_secrets(title: str) -> None:
    """Erases the secrets from this process, which is a fork: from its environment, and from what the kernel shows of
    it. Afterwards other processes of the user may inspect it.

    Its arguments, which may contain a server's password, are replaced by `title`. It works on Linux only, and only as
    long as nothing has read the secrets, since copies of what was read cannot be found.
    """
    guard()
    for name in SECRETS:
        value = os.environb.pop(name.encode(), b"")
        # A freed object keeps its bytes in memory, and the interpreter's own list of variables refers to this one too.
        ctypes.memset(id(value) + sys.getsizeof(value) - 1 - len(value), 0, len(value))
    arguments = block(ARGUMENTS)
    arguments[:] = title.encode()[: max(0, len(arguments) - 1)].ljust(len(arguments), b"\0")
    sys.argv[:] = sys.orig_argv[:] = [title]
    allow_inspection()
