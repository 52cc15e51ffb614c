"""Frames between the worker, its forkserver and its children: four bytes of length, then one JSON object.

    worker ─▶ forkserver   {setup}, {fork: N} with two descriptors, {kill: N}
    forkserver ─▶ worker   {ready, threads: names} or {failed: message}, {forked: N, pid}, {exited: N, status, peak_mb}
    worker ─▶ child     {run: K, task, children, watched: whether it tells of events}, {cancel: K}
    child ─▶ worker     {progress: K, ...}, {event: K, ...},
                        {done: K, result | error | spawn, replace: why it should be}

N numbers the children of a forkserver, K the runs of a child, so that a late message is never attributed to another.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

import orjson

__all__ = ["FRAME_LIMIT_BYTES", "Frames", "encode", "read_frame", "wrap"]

#: A task that spawns very many children makes the largest frames.
FRAME_LIMIT_BYTES = 64 * 1024 * 1024

LENGTH = struct.Struct("!I")


def wrap(body: bytes) -> bytes:
    """A frame with `body`, which is JSON."""
    return LENGTH.pack(len(body)) + body


def encode(message: Mapping[str, Any]) -> bytes:
    """A frame with `message` as JSON."""
    return wrap(orjson.dumps(message))


class Frames:
    """Cuts a stream of bytes into the bodies of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the frames that `data` completes. Raises ValueError for a frame over FRAME_LIMIT_BYTES."""
        buffer = self._buffer
        buffer += data
        bodies = []
        start = 0
        while len(buffer) - start >= LENGTH.size:
            length = LENGTH.unpack_from(buffer, start)[0]
            if length > FRAME_LIMIT_BYTES:
                raise ValueError(f"a frame of {length} bytes, over {FRAME_LIMIT_BYTES}")
            end = start + LENGTH.size + length
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[start + LENGTH.size : end]))
            start = end
        del buffer[:start]
        return bodies


def read_frame(source: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message of a blocking socket, and the descriptors that came with it; None when the other end is gone.

    It first reads only the length: descriptors arrive with the first byte of their frame, and must not be attributed to
    the frame before.
    """
    try:
        head, descriptors, _, _ = socket.recv_fds(source, LENGTH.size, 2)
        head += _read(source, LENGTH.size - len(head)) if head else b""
        if len(head) < LENGTH.size:
            return None
        length = LENGTH.unpack(head)[0]
        body = _read(source, length)
    except ConnectionError:
        return None
    if len(body) < length:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    message: dict[str, Any] = orjson.loads(body)
    return message, list(descriptors)


def _read(source: socket.socket, count: int) -> bytes:
    """Reads `count` bytes, or fewer if the other end is gone before."""
    data = bytearray()
    while len(data) < count:
        part = source.recv(min(count - len(data), 1 << 20))
        if not part:
            break
        data += part
    return bytes(data)
