"""The memory of another process, to look for what must not be in it. Linux only."""

from __future__ import annotations

import re

__all__ = ["memory_of"]


def memory_of(pid: int) -> bytes:
    """All that it may write to: heap, stacks, anonymous mappings, pages of files that it has a copy of."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            if (found := re.match("([0-9a-f]+)-([0-9a-f]+) rw", line)) and "[v" not in line:  # [vvar] is the kernel's
                begin, end = (int(bound, 16) for bound in found.groups())
                memory.seek(begin)
                parts.append(memory.read(end - begin))
    return b"\0".join(parts)
