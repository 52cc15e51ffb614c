"""Hides a process's secrets from other processes of the same user, as far as the kernel allows.

A program that reads secrets calls `guard` first. On Linux other processes of the user can then no longer read its
memory or environment, trace it, or take its descriptors (ptrace(2), "Ptrace access mode checking"); root still can. On
macOS the system itself protects memory, but `ps -E` shows the environment, and nothing can be done about that.

A fork stays guarded, but a program that it executes does not.
"""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path

from core.machine.prctl import refuse_inspection

__all__ = ["SECRETS", "block", "guard"]

#: The environment variables that give access to the system itself, or to where its spans go.
SECRETS = frozenset(
    {
        "A2A_TOKEN_SECRET", "A2A_PREVIOUS_SECRET", "A2A_AGENT_KEY", "A2A_JWT", "GATEWAY_JWT_KEYS", "GATEWAY_KEYS",
        "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "REDIS_PASSWORD", "REDIS_URL",
        "WEBHOOK_SECRET",
    }
)  # fmt: skip

#: Positions of the bounds of arguments and environment in `/proc/PID/stat`, counted after the name (proc(5)).
ARGUMENTS, ENVIRONMENT = slice(45, 47), slice(47, 49)

_VALUES = re.compile(rb"(?:^|\0)(?:" + "|".join(sorted(SECRETS)).encode() + rb")=([^\0]*)")


def guard() -> None:
    """Prevents inspection and core dumps of this process, and erases secrets from the environment that the kernel
    shows. `os.environ` still has them. In a program that is started without an explicit environment they are empty."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    refuse_inspection()
    if sys.platform == "linux":
        environment = block(ENVIRONMENT)
        for found in _VALUES.finditer(environment):
            begin, end = found.span(1)
            environment[begin:end] = bytes(end - begin)


def block(bounds: slice) -> memoryview:
    """The writable memory of this process between two bounds of its `/proc/PID/stat`; empty if the kernel does not show
    them."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = map(int, fields[bounds])
    return memoryview((ctypes.c_ubyte * (end - begin)).from_address(begin)).cast("B")
