"""What the saver asks of the place where checkpoints are kept, as a protocol.

`RedisStorage` is that place. In a process without a connection of its own, the same calls travel over a socket: all
that goes in and out is made of text, numbers and bytes. Each value below is an array when it is encoded, as in
`msgspec.msgpack.encode(batch)` and `msgspec.msgpack.decode(body, type=list[ThreadWrite])`.

Values of channels, checkpoints and metadata are bytes that the saver alone can read (see `encoding.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

__all__ = [
    "ChannelValue", "CheckpointPut", "Fence", "PendingWrite", "Selection", "Storage", "StoredCheckpoint", "ThreadWrite",
    "WritesPut", "Written",
]  # fmt: skip


class Fence(NamedTuple):
    """Who may write to a thread: the run with the highest pair that the thread has seen, and nobody before it."""

    order: int  #: of the run among those of its thread; it grows
    attempt: int  #: of the run


class ChannelValue(Struct, frozen=True, array_like=True):
    """The value that a channel has at one version."""

    channel: str
    version: str
    value: bytes | None  #: None: at this version the channel is empty


class CheckpointPut(Struct, frozen=True, array_like=True):
    """One checkpoint to be stored, with the values of the channels that have changed."""

    ns: str  #: "" or the path of a subgraph
    checkpoint_id: str  #: ids of a namespace sort in the order of their checkpoints
    parent_id: str  #: "": none
    root_id: str  #: of a subgraph's checkpoint: that of the outermost graph below which it was made; else ""
    run_id: str  #: "": none
    is_chained: bool  #: it needs the writes of its ancestors to be read, up to the first that is not chained
    versions: tuple[tuple[str, str], ...]  #: channel and version of everything that it refers to
    changed: tuple[ChannelValue, ...]
    body: bytes


class PendingWrite(Struct, frozen=True, array_like=True):
    """What one task has written to one channel."""

    index: int  #: below 0: it replaces an earlier one of the same task and index; otherwise the first one stays
    value: bytes


class WritesPut(Struct, frozen=True, array_like=True):
    """What one task has written on top of a checkpoint."""

    ns: str
    checkpoint_id: str
    task_id: str
    writes: tuple[PendingWrite, ...]


class ThreadWrite(Struct, frozen=True, array_like=True):
    """All that is to be stored for one thread, at once or not at all."""

    thread_id: str
    fence: Fence | None = None  #: None: nothing is compared
    checkpoints: tuple[CheckpointPut, ...] = ()
    writes: tuple[WritesPut, ...] = ()


class Written(Struct, frozen=True, array_like=True):
    """What became of one ThreadWrite. Without an error it is stored."""

    error: str = ""  #: name of the class in core.errors; "": none
    message: str = ""


class Selection(Struct, frozen=True, array_like=True):
    """Which checkpoints of a thread are meant; the newest comes first."""

    ns: str | None = None  #: None: of all namespaces
    checkpoint_id: str | None = None  #: this one only
    before: str | None = None  #: those with a lower id only
    before_ns: str = ""  #: and those of that id whose namespace sorts before this one
    limit: int = 1


class StoredCheckpoint(Struct, frozen=True, array_like=True):
    """A checkpoint as it was stored."""

    ns: str
    checkpoint_id: str
    parent_id: str
    root_id: str
    run_id: str
    is_chained: bool
    versions: tuple[tuple[str, str], ...]
    body: bytes
    values: tuple[ChannelValue, ...]  #: of the channels that are not empty
    writes: tuple[tuple[str, int, bytes], ...]  #: task id, index, value


class Storage(Protocol):
    """Where checkpoints are kept. Every call may be repeated when its outcome is not known.

    All calls raise TransportDown (the outcome is unknown) and ServerRefused (nothing was done)."""

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        """What became of each, in order: one may be refused, and the others are stored. The errors are FencedOut and
        CheckpointTooLarge, and those of all calls."""

    async def open(self, thread_id: str, fence: Fence) -> StoredCheckpoint | None:
        """The newest checkpoint of the thread's outermost graph; None: it has none. From now on, writes with a lower
        fence are refused. Raises FencedOut: a run with a higher one has the thread."""

    async def read(self, thread_id: str, selection: Selection) -> list[StoredCheckpoint]:
        """The selected checkpoints, the newest first; of a thread that is not there, none."""

    async def delete(self, thread_id: str) -> None:
        """Deletes all that is stored of a thread. Its fence stays for a day, so that no run that is late brings a part
        of it back."""

    async def prune(self, thread_id: str, keep: int) -> None:
        """Deletes all checkpoints but the newest `keep` of each namespace, and what those need to be read."""

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str], fence: Fence | None = None) -> None:
        """Deletes the checkpoints of a thread that were made by these runs. Raises FencedOut as `open` does, so that
        a late repetition deletes nothing of the attempt after this one. Without a fence nothing is compared."""

    async def threads(self, cursor: str = "") -> tuple[str, list[str]]:
        """Ids of some of the threads, and the cursor with which others are asked for; "": there are no others. One
        that is there all the while comes at least once."""
