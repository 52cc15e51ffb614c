"""Merges the results of the chunks into one census."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from examples.census.hotspot import Hotspot
from examples.census.measure import Totals
from examples.census.tree import to_bytes

__all__ = ["HOTSPOTS", "Census", "ChunkResult", "checksum_lines", "merge", "worst"]

#: Number of the worst functions that are examined and reported. The worst of all are among the worst of each chunk.
HOTSPOTS = 50

_ESCAPES = {b"\\": rb"\\", b"\n": rb"\n", b"\r": rb"\r"}


class ChunkResult(BaseModel):
    """The result of `census.review`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    totals: Totals
    checksums: tuple[tuple[str, str], ...]  #: (sha256, path as `tree.to_text` gives it) of every file
    hotspots: tuple[Hotspot, ...]  #: its worst hot spots, the worst first


class Census(BaseModel):
    """The result of `census.reduce`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    totals: Totals
    inputs_sha256: str
    hotspots: tuple[Hotspot, ...]
    chunks: int


def merge(results: Sequence[ChunkResult]) -> Census:
    """The census of all chunks together. Their order does not matter."""
    return Census(
        totals=sum((result.totals for result in results), Totals()),
        inputs_sha256=hashlib.sha256(
            checksum_lines(checksum for result in results for checksum in result.checksums)
        ).hexdigest(),
        hotspots=tuple(worst(spot for result in results for spot in result.hotspots)),
        chunks=len(results),
    )


def worst(hotspots: Iterable[Hotspot]) -> list[Hotspot]:
    """At most HOTSPOTS of the most complex functions, in an order that does not depend on the given one."""
    ranked = sorted(hotspots, key=lambda spot: (-spot.complexity, -spot.length, spot.path, spot.line))
    return ranked[:HOTSPOTS]


def checksum_lines(checksums: Iterable[tuple[str, str]]) -> bytes:
    """What `sha256sum` prints for these files, in the order of their paths' bytes."""
    return b"".join(
        _line(digest, path) for path, digest in sorted((to_bytes(path), digest) for digest, path in checksums)
    )


def _line(digest: str, path: bytes) -> bytes:
    # sha256sum puts a backslash at the beginning of a line whose name it had to escape.
    escaped = re.sub(rb"[\\\n\r]", lambda match: _ESCAPES[match[0]], path)
    return b"%s%s  %s\n" % (b"\\" if escaped != path else b"", digest.encode(), escaped)
