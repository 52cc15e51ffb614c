"""What another process holds and shows, to look for what must not be there. Linux only."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

__all__ = ["core_limit_of", "environment_shown_of", "memory_of", "root_only"]

#: For tests that look into an agent.
root_only = pytest.mark.skipif(
    sys.platform == "linux" and os.geteuid() != 0, reason="an agent lets nobody but root look into it"
)


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


def environment_shown_of(pid: int) -> bytes:
    """What the kernel shows of its environment to this user; nothing when it shows it to root alone."""
    with suppress(PermissionError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def core_limit_of(pid: int) -> tuple[str, str]:
    """How large a core dump of it may be, and be made to be."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"^Max core file size +(\S+) +(\S+)", limits, re.MULTILINE)
    assert found
    return found[1], found[2]
