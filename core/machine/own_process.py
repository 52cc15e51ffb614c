"""What this process takes of its machine."""

from __future__ import annotations

import gc
import resource
import sys
import time
from pathlib import Path

__all__ = ["CpuMeter", "resident_mb", "spare_collector"]

MIB = 1024 * 1024


class CpuMeter:
    """How many processors this process uses: 1.0 is all of one."""

    def __init__(self) -> None:
        self._last = time.monotonic(), time.process_time()

    def share(self) -> float:
        """The mean since the last call, or since it was made."""
        (then_s, used_s), self._last = self._last, (time.monotonic(), time.process_time())
        passed_s = self._last[0] - then_s
        return (self._last[1] - used_s) / passed_s if passed_s > 0 else 0.0


def resident_mb() -> float:
    """The resident memory of this process now, MiB; on systems other than Linux, the most that it has ever had."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize() / MIB


def spare_collector() -> None:
    """Objects made up to now live as long as the process, so the garbage collector need not visit them repeatedly."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
