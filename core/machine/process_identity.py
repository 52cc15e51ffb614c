"""Identifies the process that holds a lease, and tells whether it is provably dead.

A lease names the process of its holder. If that ran on this machine and is gone, its successor need not wait until the
lease lapses.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

__all__ = ["provably_dead", "this_process"]


def this_process() -> str:
    """The identity of this process, `machine/pid/start`. The machine stands for this boot and process namespace; the
    start distinguishes processes with the same pid."""
    pid = os.getpid()
    return f"{_machine()}/{pid}/{_start_of(pid) or 0}"


def provably_dead(process: str) -> bool:
    """Whether `process` ran on this machine, in this namespace, and no longer exists. False if that is unknown."""
    machine, pid, start = [*process.rsplit("/", 2), "", ""][:3]
    if not machine or machine != _machine() or not pid.isdecimal():
        return False
    return str(_start_of(int(pid)) or 0) != start


@cache
def _machine() -> str:
    if not sys.platform.startswith("linux"):
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def _start_of(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot; None: there is no such process, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
