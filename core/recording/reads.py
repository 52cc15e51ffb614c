"""What an agent reads when it takes up its state, as the contents of a store from which it would read the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from core.errors import ForgedRecord, UnknownKey
from core.ports import Command
from core.recording.life import Beginning, KeptRecord
from core.redis_backend.commit import Committer
from core.sealing import Sealed, Seals, bare

__all__ = ["contents", "keep_reads", "noted_reads"]

Reads = list[tuple[Command, Any]]


@contextmanager
def noted_reads(committer: Committer) -> Iterator[Reads]:
    """Gives the commands that this asyncio task runs over `committer` meanwhile, with their replies."""
    reads: Reads = []
    run, whose = committer.run, asyncio.current_task()

    async def noted(*commands: Command, max_bytes: int | None = None) -> list[Any]:
        replies = await run(*commands, max_bytes=max_bytes)
        if asyncio.current_task() is whose:  # a heartbeat may go over it as well
            reads.extend(zip(commands, replies, strict=True))
        return replies

    committer.run = noted  # type: ignore[method-assign]
    try:
        yield reads
    finally:
        del committer.run


def keep_reads(reads: Reads, seals: Seals, kept: Beginning) -> None:
    """Puts what was read into `kept`. Of a value that was read twice, the first reading counts: what an agent repairs
    when it begins, it has to find again."""
    for command, reply in reads:
        name, key, *rest = map(_text, command)
        match name:
            case "HGET" | "HMGET":
                values = [reply] if name == "HGET" else reply
                _keep(kept, key, zip(rest, values, strict=True), seals)
            case "HGETALL":
                _keep(kept, key, zip(map(_text, reply[::2]), reply[1::2], strict=True), seals)
            case "HSTRLEN" if reply:
                kept.lengths.setdefault(key, {}).setdefault(rest[0], reply)
            case "ZRANGE":
                kept.indexes.setdefault(key, [_text(member) for member in reply])


def _keep(kept: Beginning, key: str, fields: Iterator[tuple[str, bytes | None]], seals: Seals) -> None:
    for name, value in fields:
        if value is not None:
            kept.hashes.setdefault(key, {}).setdefault(name, _kept(name, value, seals))


def _kept(name: str, value: bytes, seals: Seals) -> KeptRecord:
    if bare(value) is value:
        return KeptRecord(_text(value))
    return KeptRecord(_text(bare(value)), _seal_of(name, value, seals))


def _seal_of(name: str, value: bytes, seals: Seals) -> str:
    for kind in Sealed:
        try:
            seals.opened(kind, name, value)
        except UnknownKey:
            return "unknown"
        except ForgedRecord:
            continue
        return kind.value
    return "forged"


def _text(part: Any) -> str:
    """Also of what somebody else has written, which need not be text."""
    return part.decode(errors="backslashreplace") if isinstance(part, bytes) else str(part)


def contents(beginning: Beginning, seals: Seals, unknown: Seals) -> Iterator[Sequence[str | bytes]]:
    """The commands that fill a store with what was read, sealed by an agent with these `seals`. `unknown`: those of
    another root secret."""
    for key, lengths in beginning.lengths.items():
        for name, length in lengths.items():
            yield "HSET", key, name, b"x" * length
    for key, fields in beginning.hashes.items():
        for name, record in fields.items():
            yield "HSET", key, name, _sealed(name, record, seals, unknown)
    for key, members in beginning.indexes.items():
        for place, member in enumerate(members):
            yield "ZADD", key, str(place), member


def _sealed(name: str, record: KeptRecord, seals: Seals, unknown: Seals) -> bytes:
    text = record.text.encode()
    match record.seal:
        case "":
            return text
        case "unknown":
            return unknown.seal(Sealed.TASK, name, text)
        case "forged":
            return seals.seal(Sealed.TASK, f"not {name}", text)
        case kind:
            return seals.seal(Sealed(kind), name, text)
