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

#: A child is replaced when it has this many more open than it began with.
DESCRIPTORS_LEFT_OPEN = 64

#: Looking at memory costs 30 µs: it is done after an attempt that took this long, one that failed, and now and then.
CHECK_AFTER_S = 0.01
CHECK_AFTER_RUNS = 64

#: What an attempt may have limited for itself.
OTHER_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)

#: The kernel ends a process with a higher score first when memory runs out: a child, and not an agent.
OOM_SCORE = "500"


class Limits:
    """Those of this process, from the moment it was forked. All memory is counted from there: what the user's modules
    took when they were imported is shared with every other child."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self.allowed_mb = memory_mb  #: to the attempt that runs, or the last one
        self.exhausted = False  #: an attempt has come up against it
        self._runs_unseen = 0
        self._start_bytes = _memory_bytes()
        self._hard_limit_bytes = resource.getrlimit(resource.RLIMIT_DATA)[1]  #: negative: there is no limit
        self._start_descriptor = _next_descriptor()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if not 0 <= soft <= DESCRIPTORS:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
        self._lowered = False  #: an attempt has taken something from this process for good
        self._others = {number: resource.getrlimit(number) for number in OTHER_LIMITS}
        if sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)

    def allow_memory(self, memory_mb: int | None) -> None:
        """From now on, until `lift`; None: what all attempts may have."""
        self.allowed_mb = memory_mb or self._memory_mb
        wanted_bytes = self._start_bytes + self.allowed_mb * MIB
        if not 0 <= self._hard_limit_bytes < wanted_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted_bytes, self._hard_limit_bytes))

    def lift(self) -> None:
        """Makes room to tell what came of the attempt: libraries in C crash for want of memory, orjson among them. What
        the attempt has limited itself is taken back too."""
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (self._hard_limit_bytes, self._hard_limit_bytes))
            for number, limits in self._others.items():
                if resource.getrlimit(number) != limits:
                    resource.setrlimit(number, limits)
        except ValueError:
            self._lowered = True

    def why_replace(self, took_s: float, failed: bool) -> str:
        """Why this process should be replaced after an attempt; '' as far as is known, when not."""
        if self._lowered:
            return "it has lowered a limit of its process for good"
        left_open = _next_descriptor() - self._start_descriptor
        if left_open > DESCRIPTORS_LEFT_OPEN:
            return f"it holds {left_open} descriptors"
        self._runs_unseen += 1
        usual = self.allowed_mb == self._memory_mb and not failed and took_s < CHECK_AFTER_S
        if usual and self._runs_unseen < CHECK_AFTER_RUNS:
            return ""
        self._runs_unseen = 0
        held_mb = (_memory_bytes() - self._start_bytes) // MIB
        if self.exhausted or held_mb > self._memory_mb / 2:
            return f"it holds {held_mb} MiB"
        return ""


def _memory_bytes() -> int:
    """What the limit on memory counts; elsewhere than on Linux what the process has in memory."""
    if sys.platform != "linux":
        import psutil  # only there is it needed

        return int(psutil.Process().memory_info().rss)
    return int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()


def _next_descriptor() -> int:
    """The lowest that is free: as many are open below it, and asking costs 1 µs."""
    try:
        descriptor = os.dup(1)
    except OSError:  # there is none left, or the handler has closed the standard output
        return DESCRIPTORS
    os.close(descriptor)
    return descriptor
