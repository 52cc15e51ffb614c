"""Checkpoints in the memory of this process, for hierarchies that are there too. They hold what Redis holds, and end
with the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from core.checkpoints.redis_storage import DAY_MS, LET_GO_MS
from core.checkpoints.storage import (
    ChannelValue,
    CheckpointPut,
    Fence,
    Selection,
    StoredCheckpoint,
    ThreadWrite,
    WritesPut,
    Written,
)
from core.checkpoints.write_size import MAX_WRITE_BYTES, refused_for_size
from core.errors import FencedOut

__all__ = ["MemoryStorage"]

#: The fence of a thread that no run has taken.
NOBODY = Fence(-1, -1)


@dataclass(slots=True)
class _Namespace:
    """What one namespace of a thread holds."""

    checkpoints: dict[str, CheckpointPut] = field(default_factory=dict)  #: by id
    values: dict[tuple[str, str], bytes] = field(default_factory=dict)  #: by channel and version
    writes: dict[str, dict[tuple[str, int], bytes]] = field(default_factory=dict)  #: by id, then task and index
    forks: set[str] = field(default_factory=set)  #: where the history forks, and the last of each branch

    def put(self, put: CheckpointPut) -> None:
        newest = max(self.checkpoints, default=None)
        if (
            newest is not None
            and newest not in (put.parent_id, put.checkpoint_id)
            and put.parent_id in self.checkpoints
        ):
            self.forks |= {put.parent_id, newest}
        self.checkpoints[put.checkpoint_id] = put
        for value in put.changed:
            if value.value is None:
                self.values.pop((value.channel, value.version), None)
            else:
                self.values[value.channel, value.version] = value.value

    def put_writes(self, put: WritesPut) -> None:
        kept = self.writes.setdefault(put.checkpoint_id, {})
        for one in put.writes:
            if one.index < 0 or (put.task_id, one.index) not in kept:
                kept[put.task_id, one.index] = one.value

    def stored(self, checkpoint_id: str) -> StoredCheckpoint:
        put = self.checkpoints[checkpoint_id]
        values = (
            ChannelValue(*place, self.values[place]) for place in put.versions if place in self.values
        )  # fmt: skip
        writes = self.writes.get(checkpoint_id, {})
        return StoredCheckpoint(
            put.ns, checkpoint_id, put.parent_id, put.root_id, put.run_id, put.is_chained, put.versions, put.body,
            tuple(values), tuple((*place, writes[place]) for place in sorted(writes)),
        )  # fmt: skip

    def superfluous(self, keep: int, *, forks: bool) -> list[str]:
        """All but the newest, those that are needed to read another one, and with `forks` those where it forks."""
        kept = set(sorted(self.checkpoints)[-keep:] if keep else ()) | (self.forks if forks else set())
        for checkpoint_id in list(kept):
            put = self.checkpoints.get(checkpoint_id)
            while put is not None and put.is_chained:
                kept.add(put.parent_id)
                put = self.checkpoints.get(put.parent_id)
        return [checkpoint_id for checkpoint_id in self.checkpoints if checkpoint_id not in kept]

    def drop(self, ids: Iterable[str]) -> None:
        """Deletes checkpoints, and the values that no other one refers to."""
        for checkpoint_id in ids:
            del self.checkpoints[checkpoint_id]
            self.writes.pop(checkpoint_id, None)
            self.forks.discard(checkpoint_id)
        used = {place for put in self.checkpoints.values() for place in put.versions}
        self.values = {place: value for place, value in self.values.items() if place in used}


@dataclass(slots=True)
class _Thread:
    fence: Fence = NOBODY
    fence_ends_ms: float = float("inf")
    ends_ms: float = float("inf")  #: of all but the fence
    namespaces: dict[str, _Namespace] = field(default_factory=dict)
    below: set[tuple[str, str]] = field(default_factory=set)  #: checkpoint of the outermost graph, namespace on it

    def drop(self, ns: str, ids: Sequence[str]) -> None:
        """Deletes checkpoints. With one of the outermost graph go those of the subgraphs that ran on top of it; a
        subgraph with a memory of its own has no task in its namespace, and stays."""
        self.namespaces[ns].drop(ids)
        if ns:
            return
        for root_id, sub in [each for each in self.below if each[0] in set(ids)]:
            if ":" in sub.rpartition("|")[2] and sub in self.namespaces:
                self.drop(sub, list(self.namespaces[sub].checkpoints))
            self.below.discard((root_id, sub))


class MemoryStorage:
    """A Storage (see `storage.py`) for everybody in this process. `keep` and `ttl_ms` are as of RedisStorage. `now_ms`:
    the clock by which threads end."""

    def __init__(
        self, now_ms: Callable[[], float], *, keep: int = 0, ttl_ms: int = 0, max_write_bytes: int = MAX_WRITE_BYTES
    ) -> None:
        self._now_ms = now_ms
        self._keep = keep
        self._ttl_ms = ttl_ms or float("inf")
        self._max_write_bytes = max_write_bytes
        self._threads: dict[str, _Thread] = {}
        self._looked_ms = now_ms()

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        """See Storage."""
        return [refused_for_size(write, self._max_write_bytes) or self._write(write) for write in batch]

    async def open(self, thread_id: str, fence: Fence) -> StoredCheckpoint | None:
        """See Storage."""
        thread = self._thread(thread_id)
        if not _takes(thread, fence):
            raise FencedOut(_fenced_out(thread_id))
        self._prolong(thread)
        return next(iter(_selected(thread, Selection(ns=""))), None)

    async def read(self, thread_id: str, selection: Selection) -> list[StoredCheckpoint]:
        """See Storage."""
        return _selected(self._thread(thread_id), selection)

    async def delete(self, thread_id: str) -> None:
        """See Storage."""
        thread = self._thread(thread_id)
        thread.namespaces.clear()
        thread.below.clear()
        thread.fence_ends_ms = self._now_ms() + DAY_MS

    async def let_go(self, thread_id: str) -> None:
        """As RedisStorage.let_go."""
        thread = self._thread(thread_id)
        thread.ends_ms, thread.fence_ends_ms = self._now_ms() + LET_GO_MS, self._now_ms() + DAY_MS

    async def prune(self, thread_id: str, keep: int) -> None:
        """See Storage."""
        thread = self._thread(thread_id)
        for ns in list(thread.namespaces):
            thread.drop(ns, thread.namespaces[ns].superfluous(keep, forks=False))

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str], fence: Fence | None = None) -> None:
        """See Storage."""
        thread = self._thread(thread_id)
        if fence is not None and not _takes(thread, fence):
            raise FencedOut(_fenced_out(thread_id))
        for ns, space in list(thread.namespaces.items()):
            thread.drop(ns, [name for name, put in space.checkpoints.items() if put.run_id in run_ids])

    async def threads(self, cursor: str = "") -> tuple[str, list[str]]:
        """See Storage."""
        self._forget_ended()
        return "", [name for name, thread in self._threads.items() if thread.namespaces]

    async def close(self) -> None:
        """Does nothing: others in this process may go on with the threads."""

    def _write(self, write: ThreadWrite) -> Written:
        thread = self._thread(write.thread_id)
        if write.fence is not None and not _takes(thread, write.fence):
            return Written(FencedOut.__name__, _fenced_out(write.thread_id))
        for put in write.checkpoints:
            thread.namespaces.setdefault(put.ns, _Namespace()).put(put)
            if put.root_id:
                thread.below.add((put.root_id, put.ns))
        for written in write.writes:
            thread.namespaces.setdefault(written.ns, _Namespace()).put_writes(written)
        for ns in dict.fromkeys(put.ns for put in write.checkpoints) if self._keep else ():
            thread.drop(ns, thread.namespaces[ns].superfluous(self._keep, forks=True))
        self._prolong(thread)
        return Written()

    def _prolong(self, thread: _Thread) -> None:
        thread.ends_ms = thread.fence_ends_ms = self._now_ms() + self._ttl_ms

    def _thread(self, thread_id: str) -> _Thread:
        self._forget_ended()
        return self._threads.setdefault(thread_id, _Thread())

    def _forget_ended(self) -> None:
        """Looks through all threads, at most once in the time that the shortest life takes, and at what is asked for
        at once."""
        now_ms = self._now_ms()
        if now_ms - self._looked_ms < LET_GO_MS / 10:
            return
        self._looked_ms = now_ms
        for name, thread in list(self._threads.items()):
            if thread.ends_ms <= now_ms:
                thread.namespaces.clear()
                thread.below.clear()
            if thread.fence_ends_ms <= now_ms:
                del self._threads[name]


def _takes(thread: _Thread, fence: Fence) -> bool:
    """Whether this run may write; from then on no run before it may."""
    if fence < thread.fence:
        return False
    thread.fence = fence
    return True


def _fenced_out(thread_id: str) -> str:
    return f"a later run or attempt has the thread {thread_id!r}: this one must end."


def _selected(thread: _Thread, wanted: Selection) -> list[StoredCheckpoint]:
    places = sorted(
        (
            (name, ns)
            for ns, space in thread.namespaces.items()
            if wanted.ns is None or ns == wanted.ns
            for name in space.checkpoints
            if wanted.checkpoint_id in (None, name) and _follows(wanted, name, ns)
        ),
        reverse=True,
    )
    return [thread.namespaces[ns].stored(name) for name, ns in places[: wanted.limit]]


def _follows(wanted: Selection, checkpoint_id: str, ns: str) -> bool:
    return wanted.before is None or (checkpoint_id, ns) < (wanted.before, wanted.before_ns)
