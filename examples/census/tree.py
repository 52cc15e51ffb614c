"""The files of the census, and the encoding of their names.

Paths are relative, and bytes, since a file system guarantees no encoding. JSON needs text, so `to_text` encodes each
byte that is not UTF-8, and each `%`, as `%XX`. All other names stay as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from core.errors import BadTask

__all__ = ["SourceFile", "source_files", "to_bytes", "to_text"]

SKIPPED_DIRECTORIES = frozenset({b"site-packages", b"__pycache__"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the census."""

    path: bytes  #: relative to the root, with `/` between its parts
    size: int  #: in bytes, when the tree was walked


def source_files(root: str, first: str = "", last: str | None = None) -> list[SourceFile]:
    """The files below the directory `root`, in the order of their paths' bytes.

    `root`, `first` and `last` are encoded by `to_text`. For a range of paths, from `first` to `last` inclusive, only
    directories that can contain a part of it are read. Raises BadTask when `root` is not a directory, and OSError, with
    the file's name, when something below it cannot be read.
    """
    base = to_bytes(root)
    if not os.path.isdir(base):
        raise BadTask(f"{root!r} is not a directory on this machine. Give the path of a source tree.")
    low, high = to_bytes(first), None if last is None else to_bytes(last)
    return sorted(_walk(base, b"", low, high), key=lambda file: file.path)


def _walk(directory: bytes, prefix: bytes, low: bytes, high: bytes | None) -> Iterator[SourceFile]:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                inside = path + b"/"
                below = high is not None and inside > high
                above = inside < low and not low.startswith(inside)
                if entry.name not in SKIPPED_DIRECTORIES and not below and not above:
                    yield from _walk(entry.path, inside, low, high)
            elif path.endswith(b".py") and low <= path and (high is None or path <= high):
                if entry.is_file(follow_symlinks=False):
                    yield SourceFile(path, entry.stat(follow_symlinks=False).st_size)


def to_text(path: bytes) -> str:
    """`path` as text for JSON; `to_bytes` restores it exactly."""
    decoded = path.decode("utf-8", "surrogateescape")
    return re.sub("[%\udc80-\udcff]", lambda match: f"%{ord(match[0]) & 0xFF:02X}", decoded)


def to_bytes(text: str) -> bytes:
    """The path that `to_text` has encoded as `text`."""
    return unquote_to_bytes(text)
