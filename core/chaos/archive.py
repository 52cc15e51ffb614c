"""Keeps every part of a server's append-only file, although the server rewrites it.

A long run writes hundreds of megabytes, and a server that had to load them all after each kill would be away most of
the time. So it is told to rewrite the file now and then: it begins a new part, and removes the old ones when their
summary is written. Each part is linked into the archive before that. `AppendLog` can read the archive like the server's
own directory.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Archive"]

#: Up to this size, in bytes, a part is loaded in a fraction of a second.
MAX_PART_BYTES = 16 * 1024 * 1024


class Archive:
    """The archive of the append-only file in `source`. It is in `directory`, on the same file system."""

    def __init__(self, source: Path, directory: Path) -> None:
        self.directory = directory
        self._source = source
        directory.mkdir()

    def collect(self) -> None:
        """Links new parts into the archive. Call it at least once between two rewrites."""
        new = [part for part in self._source.glob("*.incr.aof") if not (self.directory / part.name).exists()]
        for part in new:
            os.link(part, self.directory / part.name)
        if new:
            parts = sorted(self.directory.glob("*.incr.aof"), key=_number)
            lines = [f"file {part.name} seq {_number(part)} type i\n" for part in parts]
            (self.directory / "appendonly.aof.manifest").write_text("".join(lines))

    @property
    def wants_rewrite(self) -> bool:
        """Whether the newest part is so long that the file should be rewritten. Call `collect` first."""
        newest = max(self.directory.glob("*.incr.aof"), key=_number, default=None)
        return newest is not None and newest.stat().st_size > MAX_PART_BYTES


def _number(part: Path) -> int:
    """The number in a name such as `appendonly.aof.7.incr.aof`."""
    return int(part.name.split(".")[-3])
