"""What user code may take of a child process, and whether that is fit for another attempt afterwards.

On Linux the kernel enforces the limit on memory (RLIMIT_DATA: heap, thread stacks and private mappings; shared and
file-backed ones do not count): what asks for more gets a MemoryError, or dies where it is not prepared for one. On
macOS nothing enforces it; a child that holds too much after an attempt is replaced there too.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["Limits"]

MIB = 1 << 20

#: Open files and sockets of a child. Above 1024 `select` fails, and a system's own limit may be a million.
DESCRIPTORS = 1024

#: A child is replaced when it has so many more than it began with.
DESCRIPTORS_LEFT_OPEN = 64

#: Looking costs 50 µs: it is done after an attempt that took this long, one that failed, and now and then.
LOOK_AFTER_S = 0.01
LOOK_AFTER_RUNS = 64

#: The kernel ends a process with a higher score first when memory runs out: a child, and not an agent.
OOM_SCORE = "500"

HELD_OPEN = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"


class Limits:
    """Those of this process, from the moment it was forked. All memory is counted from there: what the user's modules
    took when they were imported is shared with every other child."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self.allowed_mb = 0  #: to the attempt that runs
        self._lifted = False
        self._runs_unseen = 0
        self._start_bytes = _memory_bytes()
        self._start_descriptors = _descriptors()
        if not 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= DESCRIPTORS:
            _set_soft(resource.RLIMIT_NOFILE, DESCRIPTORS)
        if sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)

    def allow_memory(self, memory_mb: int | None) -> None:
        """For the attempt that comes; None: what all attempts may have."""
        wanted_mb = memory_mb or self._memory_mb
        if wanted_mb != self.allowed_mb:
            _set_soft(resource.RLIMIT_DATA, self._start_bytes + wanted_mb * MIB)
            self.allowed_mb = wanted_mb

    def lift(self) -> None:
        """Makes room to tell what went wrong when memory was exhausted. This process is worn then."""
        _set_soft(resource.RLIMIT_DATA, None)
        self._lifted = True

    def worn(self, took_s: float, failed: bool) -> str:
        """Why this process should be replaced after an attempt; '' as far as is known, when not."""
        self._runs_unseen += 1
        usual = self.allowed_mb == self._memory_mb and not failed and took_s < LOOK_AFTER_S
        if usual and self._runs_unseen < LOOK_AFTER_RUNS:
            return ""
        self._runs_unseen = 0
        held_mb = (_memory_bytes() - self._start_bytes) // MIB
        left_open = _descriptors() - self._start_descriptors
        if self._lifted or held_mb > self._memory_mb / 2:
            return f"it holds {held_mb} MiB"
        if left_open > DESCRIPTORS_LEFT_OPEN:
            return f"it holds {left_open} descriptors"
        return ""


def _set_soft(which: int, wanted: int | None) -> None:
    """``None``: as high as may be."""
    hard = resource.getrlimit(which)[1]
    soft = hard if wanted is None or 0 <= hard < wanted else wanted  # a negative one is no limit
    resource.setrlimit(which, (soft, hard))


def _memory_bytes() -> int:
    """What the limit on memory counts; elsewhere than on Linux what the process has in memory."""
    if sys.platform != "linux":
        import psutil  # only there is it needed

        return int(psutil.Process().memory_info().rss)
    return int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()


def _descriptors() -> int:
    try:
        return len(os.listdir(HELD_OPEN))
    except OSError:  # there is none left to look with
        return DESCRIPTORS
