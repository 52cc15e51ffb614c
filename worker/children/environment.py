"""What user code does not find in its process: the secrets that open the way to the system itself."""

from __future__ import annotations

import ctypes
import os
import sys

from core.machine.prctl import allow_inspection
from core.machine.process_secrets import ARGUMENTS, SECRETS, block, guard

__all__ = ["forget_secrets", "without_secrets"]


def without_secrets() -> dict[str, str]:
    """The environment for a process that is started anew."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def forget_secrets(title: str) -> None:
    """Takes them out of this process, a fork: out of what its code reads, and of what the kernel shows of it to others.
    Then it has none, and may be looked at.

    Its arguments, which may name a server with its password, become `title`. Linux only; and of use only where nothing
    has read the secrets yet, since nobody can tell what copies there are of what was read.
    """
    guard()
    for name in SECRETS:
        value = os.environb.pop(name.encode(), b"")
        # Objects that are freed keep their bytes; this one is in the interpreter's own list of variables as well.
        ctypes.memset(id(value) + sys.getsizeof(value) - 1 - len(value), 0, len(value))
    arguments = block(ARGUMENTS)
    arguments[:] = title.encode()[: max(0, len(arguments) - 1)].ljust(len(arguments), b"\0")
    sys.argv[:] = sys.orig_argv[:] = [title]
    allow_inspection()
