"""What a process asks of the kernel for itself (prctl(2)). Linux only: elsewhere these change nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["adopt_orphans", "allow_inspection", "die_with_parent", "refuse_inspection", "signal_when_parent_ends"]

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


def signal_when_parent_ends(number: int) -> None:
    """The kernel sends this process the signal when its parent ends, whatever it is doing then."""
    _prctl(_PR_SET_PDEATHSIG, number)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when `parent` ends. If that has ended already, this process ends now, on every
    system."""
    signal_when_parent_ends(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own has ended, so that none gets away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def refuse_inspection() -> None:
    """Nobody of the same user can read the memory of this process or its environment, trace it, or take a descriptor of
    it; it leaves no core dump."""
    _prctl(_PR_SET_DUMPABLE, 0)


def allow_inspection() -> None:
    """Lets others of the user look at this process again, with a debugger or a profiler."""
    _prctl(_PR_SET_DUMPABLE, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
