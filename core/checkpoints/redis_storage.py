"""Checkpoints in plain Redis or Valkey: no module, and all keys of a thread in one hash slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from core.checkpoints.connection import GroupedConnection
from core.checkpoints.storage import (
    ChannelValue,
    Fence,
    Selection,
    StoredCheckpoint,
    ThreadWrite,
    Written,
)
from core.checkpoints.write_size import MAX_WRITE_BYTES, refused_for_size
from core.errors import FencedOut, ServerRefused
from core.ports import Command, Connection, Part
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.keys import ThreadKeys
from core.redis_backend.scripted_exchange import refusal
from core.redis_backend.thread_scripts import DROP_RUNS, FENCED_OUT, PRUNE, READ, SCRIPTS, WRITE, value_name, write_name
from core.redis_client import ResponseError

__all__ = ["DAY_MS", "LET_GO_MS", "RedisStorage", "letting_go"]

DAY_MS = 24 * 60 * 60 * 1000
#: How long a thread stays that was let go, for whoever looks at it soon.
LET_GO_MS = 10 * 60 * 1000
_NO_FENCE = ("", "")
_encode = msgspec.msgpack.Encoder().encode


class RedisStorage:
    """A Storage (see `storage.py`). Several processes may use the same threads."""

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        *,
        keep: int = 0,
        ttl_ms: int = 0,
        max_write_bytes: int = MAX_WRITE_BYTES,
    ) -> None:
        """`keep`: how many checkpoints of a namespace are kept, and besides them those where a history forks, and the
        last of the branch that it left; 0: all. `ttl_ms`: how long a thread is kept after its last write; 0: for
        good."""
        self._connection = GroupedConnection(open_connection, SCRIPTS)
        self._options = (ttl_ms, keep)
        self._max_write_bytes = max_write_bytes

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        """See Storage. All of the batch travels in one write."""
        sizes = [refused_for_size(write, self._max_write_bytes) for write in batch]
        commands = [self._command(write) for write, refused in zip(batch, sizes, strict=True) if not refused]
        replies = iter(await self._connection.ask.aio(*commands) if commands else ())
        return [refused or _written(write, next(replies)) for write, refused in zip(batch, sizes, strict=True)]

    async def open(self, thread_id: str, fence: Fence) -> StoredCheckpoint | None:
        """See Storage."""
        command = _read(thread_id, Selection(ns=""), fence)
        keep = [("PEXPIRE", key, self._options[0]) for key in ThreadKeys(thread_id).all] if self._options[0] else ()
        reply, *_ = await self._connection.ask.aio(command, *keep)  # an earlier attempt may have let it go
        _raise_refusal(thread_id, command, reply)
        return next(map(_stored, reply), None)

    async def read(self, thread_id: str, selection: Selection) -> list[StoredCheckpoint]:
        """See Storage."""
        [reply] = await self._connection.run(_read(thread_id, selection))
        return list(map(_stored, reply))

    async def delete(self, thread_id: str) -> None:
        """See Storage."""
        fence, *others = ThreadKeys(thread_id).all
        await self._connection.run(("UNLINK", *others), ("PEXPIRE", fence, DAY_MS))

    async def let_go(self, thread_id: str) -> None:
        """Does what `letting_go` says."""
        await self._connection.run(*letting_go(thread_id))

    async def prune(self, thread_id: str, keep: int) -> None:
        """See Storage."""
        await self._connection.run(_script(PRUNE, thread_id, keep))

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str], fence: Fence | None = None) -> None:
        """See Storage."""
        command = _script(DROP_RUNS, thread_id, *(fence or _NO_FENCE), *run_ids)
        [reply] = await self._connection.ask.aio(command)
        _raise_refusal(thread_id, command, reply)

    async def threads(self, cursor: str = "") -> tuple[str, list[str]]:
        """See Storage. It takes time in proportion to the keys of the server, a part of it at each call."""
        _, _, pattern = ThreadKeys("*").all
        before, _, after = pattern.partition("*")
        [(at, keys)] = await self._connection.run(("SCAN", cursor or 0, "MATCH", pattern, "COUNT", 1000))
        found = [key.decode().removeprefix(before).removesuffix(after) for key in keys]
        return _cursor(at), found

    async def close(self) -> None:
        """Closes the connection; the next call opens it again."""
        await self._connection.close.aio()

    def _command(self, write: ThreadWrite) -> Command:
        checkpoints: list[Part] = []
        values: list[Part] = []
        writes: list[Part] = []
        for put in write.checkpoints:
            header = (put.parent_id, put.root_id, put.run_id, put.is_chained, dict(put.versions))
            checkpoints += (put.ns, put.checkpoint_id, put.root_id, _encode(header), put.body)
            for value in put.changed:
                values += (value_name(put.ns, value.channel, value.version), value.value or b"")
        for written in write.writes:
            for one in written.writes:
                name = write_name(written.ns, written.checkpoint_id, written.task_id, one.index)
                writes += (name, one.value, int(one.index < 0))
        return _script(
            WRITE,
            write.thread_id,
            *(write.fence or _NO_FENCE),
            *self._options,
            len(write.checkpoints),
            len(values) // 2,
            len(writes) // 3,
            *checkpoints,
            *values,
            *writes,
        )


def letting_go(thread_id: str) -> list[Command]:
    """The commands that keep a thread for LET_GO_MS only, unless a run opens it by then, and the fence for a day as
    `delete` does."""
    fence, *others = ThreadKeys(thread_id).all
    return [*(("PEXPIRE", key, LET_GO_MS) for key in others), ("PEXPIRE", fence, DAY_MS)]


def _script(script: str, thread_id: str, *arguments: Part) -> Command:
    return ("EVALSHA", name_of(script), 3, *ThreadKeys(thread_id).all, *arguments)


def _read(thread_id: str, selection: Selection, fence: Fence | None = None) -> Command:
    return _script(
        READ,
        thread_id,
        *(fence or _NO_FENCE),
        int(selection.ns is None),
        selection.ns or "",
        selection.checkpoint_id or "",
        selection.before or "",
        selection.before_ns,
        selection.limit,
    )


def _stored(reply: list[Any]) -> StoredCheckpoint:
    ns, checkpoint_id, packed, body, values, writes = reply
    parent_id, root_id, run_id, is_chained, versions = msgspec.msgpack.decode(packed)
    return StoredCheckpoint(
        ns=ns.decode(),
        checkpoint_id=checkpoint_id.decode(),
        parent_id=parent_id,
        root_id=root_id,
        run_id=run_id,
        is_chained=is_chained,
        versions=tuple(versions.items()),
        body=body,
        values=tuple(
            ChannelValue(channel.decode(), version.decode(), value) for channel, version, value in _groups(values, 3)
        ),
        writes=tuple((*_task_and_index(name), value) for name, value in _groups(writes, 2)),
    )


def _groups(parts: list[bytes], size: int) -> Iterator[tuple[bytes, ...]]:
    return zip(*[iter(parts)] * size, strict=True)


def _task_and_index(name: bytes) -> tuple[str, int]:
    _, task_id, index = name.decode().rsplit("\0", 2)
    return task_id, int(index)


def _written(write: ThreadWrite, reply: Any) -> Written:
    return _refused(write.thread_id, ("EVALSHA", "write"), reply) if isinstance(reply, ResponseError) else Written()


def _raise_refusal(thread_id: str, command: Command, reply: Any) -> None:
    """Raises FencedOut or ServerRefused if the reply is an error."""
    if isinstance(reply, ResponseError):
        written = _refused(thread_id, command, reply)
        raise FencedOut(written.message) if written.error == FencedOut.__name__ else ServerRefused(written.message)


def _refused(thread_id: str, command: Command, reply: ResponseError) -> Written:
    if str(reply).startswith(FENCED_OUT):
        return Written(FencedOut.__name__, f"a later run or attempt has the thread {thread_id!r}: this one must end.")
    return Written(ServerRefused.__name__, refusal(command, reply))


def _cursor(reply: bytes | int) -> str:
    """redis-py makes a number of it. The cursor 0 is the end."""
    return "" if int(reply) == 0 else str(int(reply))
