"""What a process lets others of its user see of its secrets: nothing, as far as the kernel can see to it.

A program that reads secrets calls `guard` first. On Linux nobody of the same user can then read its memory or its
environment, trace it, or take a descriptor of it (ptrace(2), "Ptrace access mode checking"); root still can. On macOS
the system guards memory by itself; nothing takes the environment, which `ps -E` shows, out of there.

What is forked from it stays guarded, what it executes does not: the kernel lets a new program be looked at.
"""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path

from core.machine.prctl import refuse_inspection

__all__ = ["SECRETS", "block", "guard"]

#: The variables that open the way to the system itself.
SECRETS = frozenset({"A2A_TOKEN_SECRET", "A2A_PREVIOUS_SECRET", "A2A_AGENT_KEY", "REDIS_PASSWORD", "REDIS_URL"})

#: Where `/proc/PID/stat` has the bounds of arguments and environment, counted from the field behind the name (proc(5)).
ARGUMENTS, ENVIRONMENT = slice(45, 47), slice(47, 49)

_VALUES = re.compile(rb"(?:^|\0)(?:" + "|".join(sorted(SECRETS)).encode() + rb")=([^\0]*)")


def guard() -> None:
    """Keeps this process from being looked at and from leaving a core dump, and wipes the values of secrets out of what
    the kernel shows of its environment. `os.environ` has them still; a program that is started without being given an
    environment finds them empty."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    refuse_inspection()
    if sys.platform == "linux":
        environment = block(ENVIRONMENT)
        for found in _VALUES.finditer(environment):
            begin, end = found.span(1)
            environment[begin:end] = bytes(end - begin)


def block(bounds: slice) -> memoryview:
    """The memory of this process between two bounds of its `/proc/PID/stat`, to be written to; empty where the kernel
    does not tell them."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = map(int, fields[bounds])
    return memoryview((ctypes.c_ubyte * (end - begin)).from_address(begin)).cast("B")
