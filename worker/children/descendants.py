"""Ends the processes that user code starts, so that none outlives its attempt."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from time import monotonic, sleep

__all__ = ["children", "end_children", "end_strangers"]

#: Seconds to wait until killed processes are gone. It takes that long only if new ones are made faster.
END_TIMEOUT_S = 1.0


def children() -> set[int]:
    """The pids of this process's children, including dead ones that were not reaped."""
    if not _has_children():
        return set()
    import psutil  # seldom needed, and heavy

    return {child.pid for child in psutil.Process().children()}


def end_children() -> bool:
    """Kills every child of this process, and every descendant that becomes a child by that. Returns whether there were
    any; if not, it costs 3 µs."""
    if not _has_children():
        return False
    until_s = monotonic() + END_TIMEOUT_S
    while _has_children() and monotonic() < until_s:
        end_strangers(())
        sleep(0.001)
    return True


def end_strangers(known: Collection[int]) -> None:
    """Kills the children of this process whose pids are not `known`, and reaps dead ones. The children of a killed one
    become children of this process, and are killed by the next call."""
    for pid in children().difference(known):
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
