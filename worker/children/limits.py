"""Limits what user code may use of a child process, and decides whether that can run another attempt afterwards.

On Linux the kernel enforces the limit on memory (RLIMIT_DATA: heap, thread stacks and private mappings, but not shared
or file-backed ones). Code that needs more gets a MemoryError, or crashes if it cannot handle one. On macOS nothing
enforces the limit, but there too a child is replaced if it holds too much after an attempt.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock

__all__ = ["Limits"]

MIB = 1 << 20

#: Number of open files and sockets of a child. Above 1024 `select` fails; a system's own limit may be a million.
DESCRIPTORS = 1024

#: A child is replaced when it has this many more descriptors open than at its start.
DESCRIPTORS_LEFT_OPEN = 64

#: Reading the memory use costs 30 µs, so it is done after an attempt of at least this many seconds, after a failed one,
#: and otherwise after this many attempts.
CHECK_AFTER_S = 0.01
CHECK_AFTER_RUNS = 64

#: Limits that user code may have set for its own process.
OTHER_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)

#: When memory runs out, the kernel first ends processes with a high score: a child rather than an agent.
OOM_SCORE = "500"


class Limits:
    """The limits of this process, which was just forked. Only memory that it takes from now on counts: what the user's
    modules took at import is shared by all children."""

    def __init__(self, memory_mb: int, *, stacks_mb: int = 0, descriptors: int = DESCRIPTORS) -> None:
        """`stacks_mb`: what the stacks of its threads take in addition. `descriptors`: how many it may have open."""
        self._memory_mb = memory_mb
        self._stacks_mb = stacks_mb
        self._lock = Lock()
        self._limited = False  #: whether the limit on memory is in force
        self.allowed_mb = memory_mb  #: memory limit of the current or the last attempt
        self.exhausted = False  #: whether an attempt has reached it
        self._runs_unseen = 0
        self._start_bytes = _memory_bytes()
        self._hard_limit_bytes = resource.getrlimit(resource.RLIMIT_DATA)[1]  #: negative: there is no limit
        self._start_descriptor = _next_descriptor()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = descriptors if hard < 0 else min(descriptors, hard)
        if not 0 <= soft <= DESCRIPTORS or wanted > DESCRIPTORS:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self._lowered = False  #: whether an attempt has lowered a limit that cannot be raised again
        self._others = {number: resource.getrlimit(number) for number in OTHER_LIMITS}
        if sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)

    def allow_memory(self, memory_mb: int | None) -> None:
        """Limits the memory until `lift` is called, in MiB; None: the limit for all attempts."""
        with self._lock:
            self.allowed_mb, self._limited = memory_mb or self._memory_mb, True
            self._apply()

    def allow_stacks(self, stacks_mb: int) -> None:
        """Allows the stacks of its threads so much, in MiB, from now on; no less than before, since a thread that is
        idle keeps its stack. Any thread may call this."""
        with self._lock:
            if stacks_mb > self._stacks_mb:
                self._stacks_mb = stacks_mb
                if self._limited:
                    self._apply()

    def lift(self) -> None:
        """Lifts the limit on memory, so that the outcome can be reported: libraries in C, such as orjson, crash without
        memory. Limits that the attempt itself has set are undone as well."""
        self._limited = False
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (self._hard_limit_bytes, self._hard_limit_bytes))
            for number, limits in self._others.items():
                if resource.getrlimit(number) != limits:
                    resource.setrlimit(number, limits)
        except ValueError:
            self._lowered = True

    def why_replace(self, took_s: float, failed: bool) -> str:
        """Why this process should be replaced after an attempt; empty if no reason is known."""
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

    def _apply(self) -> None:
        wanted_bytes = self._start_bytes + (self.allowed_mb + self._stacks_mb) * MIB
        if not 0 <= self._hard_limit_bytes < wanted_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted_bytes, self._hard_limit_bytes))


def _memory_bytes() -> int:
    """The memory that the limit counts, in bytes; on systems other than Linux, the resident memory."""
    if sys.platform != "linux":
        import psutil  # only needed on these systems

        return int(psutil.Process().memory_info().rss)
    return int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()


def _next_descriptor() -> int:
    """The lowest free descriptor, which is about the number of open ones. It costs 1 µs."""
    try:
        descriptor = os.dup(1)
    except OSError:  # there is none left, or the handler has closed the standard output
        return DESCRIPTORS
    os.close(descriptor)
    return descriptor
