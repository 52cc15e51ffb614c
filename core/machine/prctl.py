"""Requests of a process to the kernel about itself (prctl(2)). On other systems than Linux they have no effect."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["adopt_orphans", "allow_inspection", "die_with_parent", "refuse_inspection", "signal_when_parent_ends"]

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


def signal_when_parent_ends(number: int) -> None:
    """Makes the kernel send this process a signal when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def die_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when `parent` ends. If that has already ended, this process ends now, on every
    system."""
    signal_when_parent_ends(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Makes this process the parent of each descendant whose own parent ends, so that it can still be killed."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def refuse_inspection() -> None:
    """Prevents other processes of the user from reading this process's memory and environment, tracing it, or taking
    its descriptors. It leaves no core dump."""
    _prctl(_PR_SET_DUMPABLE, 0)


def allow_inspection() -> None:
    """Lets other processes of the user, such as debuggers and profilers, inspect this process again."""
    _prctl(_PR_SET_DUMPABLE, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
