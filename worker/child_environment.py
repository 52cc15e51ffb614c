"""What user code does not find in its process: the secrets that open the way to the system itself."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

__all__ = ["forget_secrets", "without_secrets"]

SECRETS = frozenset({"A2A_TOKEN_SECRET", "A2A_PREVIOUS_SECRET", "A2A_AGENT_KEY", "REDIS_PASSWORD", "REDIS_URL"})

#: Where `/proc/PID/stat` has the bounds of arguments and environment, counted from the field behind the name (proc(5)).
ARGUMENTS, ENVIRONMENT = slice(45, 47), slice(47, 49)

_VALUES = re.compile(rb"(?:^|\0)(?:" + "|".join(sorted(SECRETS)).encode() + rb")=([^\0]*)")


def without_secrets() -> dict[str, str]:
    """The environment for a process that is started anew."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def forget_secrets(title: str) -> None:
    """Takes them out of this process, a fork: out of what its code reads, and of what the kernel shows of it to others.

    Its arguments, which may name a server with its password, become `title`. Linux only; and of use only where nothing
    has read the secrets yet, since nobody can tell what copies there are of what was read.
    """
    for name in SECRETS:
        value = os.environb.pop(name.encode(), b"")
        # Objects that are freed keep their bytes; this one is in the interpreter's own list of variables as well.
        ctypes.memset(id(value) + sys.getsizeof(value) - 1 - len(value), 0, len(value))
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    environment = _memory(*map(int, fields[ENVIRONMENT]))
    for found in _VALUES.finditer(environment):
        begin, end = found.span(1)
        environment[begin:end] = bytes(end - begin)
    arguments = _memory(*map(int, fields[ARGUMENTS]))
    arguments[:] = title.encode()[: max(0, len(arguments) - 1)].ljust(len(arguments), b"\0")
    sys.argv[:] = sys.orig_argv[:] = [title]


def _memory(begin: int, end: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * (end - begin)).from_address(begin)).cast("B")
