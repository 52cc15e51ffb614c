"""Reads in the append-only file who has written the checkpoints of runs, and what runs have told while they were under
way. A checkpoint says which attempt has made it; the fence of its thread, which attempt may."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import orjson

from core.chaos.append_log import Transaction
from core.checkpoints.encryption import Plain
from core.stored import pairs

__all__ = ["RunHistory"]

_THREAD = re.compile(rb"\{thread:(?P<thread>.+)\}:(fence|(?P<values>values))")
_STREAM = re.compile(rb"\{coordinator:[^}]+\}:stream:(?P<task>.+)")


@dataclass(slots=True)
class RunHistory:
    """What runs have stored and told. Pass each transaction to `take`, in order."""

    #: by task, in order: the id of each chunk, as readers are told it, and the attempt that tells it
    chunks: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    checkpoints: int = 0  #: that name their attempt
    broken: list[str] = field(default_factory=list)  #: what no attempt may do, in words
    _fences: dict[bytes, bytes] = field(default_factory=dict)  # by thread: order and attempt

    def take(self, transaction: Transaction) -> None:
        for key, fence, *_ in transaction.named(b"SET"):
            if found := _THREAD.fullmatch(key):
                self._fences[found["thread"]] = fence
        for key, *fields in transaction.named(b"HSET"):
            if (found := _THREAD.fullmatch(key)) and found["values"]:
                self._take_values(found["thread"], pairs(fields))
        for key, *arguments in transaction.named(b"XADD"):
            if found := _STREAM.fullmatch(key):
                self._take_chunks(found["task"].decode(), arguments)

    def _take_values(self, thread: bytes, values: Mapping[bytes, bytes]) -> None:
        for name, body in values.items():
            if name.startswith(b"c"):  # see core.redis_backend.thread_scripts
                self._check_writer(thread, body)

    def _check_writer(self, thread: bytes, body: bytes) -> None:
        _, data = msgspec.msgpack.decode(Plain().unseal(body, thread.decode()))
        _, metadata = msgspec.msgpack.decode(data)
        fence, attempt = self._fences.get(thread), metadata.get("attempt")
        if attempt is None:  # of a program, which needs no fence
            return
        self.checkpoints += 1
        if fence is None or int(fence.split()[1]) != attempt:
            held = f"the fence was {fence.decode()!r}" if fence else "it had no fence"
            self.broken.append(f"thread {thread.decode()}: attempt {attempt} wrote a checkpoint while {held}")

    def _take_chunks(self, task_id: str, arguments: list[bytes]) -> None:
        place = arguments.index(b"attempt")
        entry, fields = arguments[place - 1].decode(), pairs(arguments[place:])
        attempt, count = int(fields[b"attempt"]), len(orjson.loads(fields[b"chunks"]))
        self.chunks.setdefault(task_id, []).extend((f"{entry}/{number}", attempt) for number in range(count))
