"""How the work is cut: a sorted list of files into chunks of nearly equal weight.

A chunk is a range of paths, not a list of them: its payload is a few hundred bytes whatever the size of the tree, and
the worker that gets it walks only the directories in that range.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from core.errors import BadTask
from examples.census.tree import SourceFile, source_files, to_text

__all__ = ["Chunk", "PlanRequest", "chunks_for", "chunks_of", "cut"]

#: Weight of a file beside its bytes: opening it costs about as much as parsing this many bytes.
FILE_OVERHEAD_BYTES = 1024
#: A chunk of this weight is measured in about half a second.
CHUNK_BYTES = 2 * 1024 * 1024
#: A chunk's result lists its files' checksums: 300 of them, with long paths, stay far below the limit of a result.
CHUNK_FILES = 300
CHUNK_PATH_BYTES = 32 * 1024
#: Enough for each worker that one which dies in the middle leaves work behind, and that all end at about one time.
CHUNKS_PER_WORKER = 8
MIN_CHUNKS = 16


class PlanRequest(BaseModel):
    """What `census.plan` is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str = Field(min_length=1)  #: absolute path of the tree, as `tree.to_text` gives it
    chunks: int = Field(default=MIN_CHUNKS, ge=1)  #: into how many to cut at least, where there are as many files


class Chunk(BaseModel):
    """What `census.review` is asked: the files of `root` from `first` to `last`, in the order of their bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    first: str
    last: str
    files: int = Field(ge=1)  #: how many there were when the tree was walked


def chunks_for(workers: int) -> int:
    """The number of chunks for that many workers, all distributors together."""
    return max(MIN_CHUNKS, CHUNKS_PER_WORKER * workers)


def chunks_of(request: PlanRequest) -> list[Chunk]:
    """The tree on this machine, cut as it was asked. Raises BadTask where it holds nothing to count."""
    files = source_files(request.root)
    if not files:
        raise BadTask(f"there is no *.py file below {request.root!r}. Give the path of a Python source tree.")
    return cut(request.root, files, request.chunks)


def cut(root: str, files: Sequence[SourceFile], chunks: int) -> list[Chunk]:
    """`files`, sorted by path, as consecutive chunks of nearly equal weight; none for no files.

    About `chunks` of them; more where one would get larger than a worker should hold, or its result should be.
    """
    total = sum(map(_weight, files))
    share = total / max(chunks, -(-total // CHUNK_BYTES), -(-len(files) // CHUNK_FILES)) if files else 1.0
    parts: list[list[SourceFile]] = []
    before, current, room = 0, -1, 0  # weight before this file, share of the last part, path bytes it has left
    for file in files:
        # A file belongs to the share that its middle falls into, so that the rounding does not add up.
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
