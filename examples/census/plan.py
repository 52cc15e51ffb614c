"""Cuts the work: a sorted list of files becomes chunks of nearly equal weight.

A chunk is a range of paths and not a list. So its payload has a few hundred bytes for a tree of any size, and the
worker that gets it walks only the directories in that range.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from core.errors import BadTask
from examples.census.tree import SourceFile, source_files, to_text

__all__ = ["Chunk", "PlanRequest", "chunks_for", "chunks_of", "cut"]

#: Weight of a file in addition to its bytes: opening it costs about as much as parsing this many bytes.
FILE_OVERHEAD_BYTES = 1024
#: A chunk of this weight is measured in about half a second.
CHUNK_BYTES = 2 * 1024 * 1024
#: Number of files in a chunk. Its result lists their checksums, and must stay far below the limit of a result.
CHUNK_FILES = 300
CHUNK_PATH_BYTES = 32 * 1024
#: Enough chunks for each worker that all end at about the same time, and that one which dies leaves work behind.
CHUNKS_PER_WORKER = 8
MIN_CHUNKS = 16


class PlanRequest(BaseModel):
    """The payload of `census.plan`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str = Field(min_length=1)  #: absolute path of the tree, as `tree.to_text` gives it
    chunks: int = Field(default=MIN_CHUNKS, ge=1)  #: the least number of chunks, if there are as many files


class Chunk(BaseModel):
    """The payload of `census.review`: the files of `root` from `first` to `last`, in the order of their bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    first: str
    last: str
    files: int = Field(ge=1)  #: their number when the tree was walked


def chunks_for(workers: int) -> int:
    """The number of chunks for this number of workers, of all distributors together."""
    return max(MIN_CHUNKS, CHUNKS_PER_WORKER * workers)


def chunks_of(request: PlanRequest) -> list[Chunk]:
    """Cuts the tree on this machine into chunks. Raises BadTask when it has no files to count."""
    files = source_files(request.root)
    if not files:
        raise BadTask(f"there is no *.py file below {request.root!r}. Give the path of a Python source tree.")
    return cut(request.root, files, request.chunks)


def cut(root: str, files: Sequence[SourceFile], chunks: int) -> list[Chunk]:
    """Cuts `files`, which are sorted by path, into consecutive chunks of nearly equal weight; without files, into none.

    There are about `chunks` of them, or more if a chunk or its result would be too large.
    """
    total = sum(map(_weight, files))
    share = total / max(chunks, -(-total // CHUNK_BYTES), -(-len(files) // CHUNK_FILES)) if files else 1.0
    parts: list[list[SourceFile]] = []
    before, current, room = 0, -1, 0  # weight before this file, share of the last part, path bytes it has left
    for file in files:
        # A file belongs to the share that contains its middle, so that rounding errors do not add up.
        number = int((before + _weight(file) / 2) / share)
        before += _weight(file)
        if number != current or len(parts[-1]) >= CHUNK_FILES or len(file.path) > room:
            parts.append([])
            current, room = number, CHUNK_PATH_BYTES
        parts[-1].append(file)
        room -= len(file.path)
    return [
        Chunk(root=root, first=to_text(part[0].path), last=to_text(part[-1].path), files=len(part)) for part in parts
    ]


def _weight(file: SourceFile) -> int:
    return file.size + FILE_OVERHEAD_BYTES
