"""How busy the machine of this process is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["machine_load"]


def machine_load() -> tuple[int, int]:
    """How many percent of the processors were wanted in the last minute, 100 at most, and how many of the memory are in
    use; 0 where the system does not tell."""
    cpu = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    return min(100, round(100 * cpu)), _memory_percent()


def _memory_percent() -> int:
    if sys.platform != "linux":
        return 0
    told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    total, available = (int(told.get(name, "0").split()[0]) for name in ("MemTotal", "MemAvailable"))
    return round(100 * (total - available) / total) if total else 0
