"""Reads the file of a life, a turn at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from msgspec import DecodeError, Struct

from core.errors import BadRecording
from core.recording.life import INDENT, SHAPE, Beginning, Head, Moment, Turn

__all__ = ["RecordedLife"]

S = TypeVar("S", bound=Struct)


class RecordedLife:
    """A file of a recording. While its turns are read, `torn` and `end` come to be known."""

    def __init__(self, path: Path, head: Head, beginning: Beginning) -> None:
        self._path = path
        self.head = head
        self.beginning = beginning
        self.torn = False  #: whether its last line is not whole, so that the process was killed while it wrote
        self.end = ""  #: why the recording ends before the life did

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Reads the beginning. Raises BadRecording."""
        try:
            with path.open("rb") as file:
                head = _value(path, 1, file.readline(), "recording ", Head)
                if head.shape != SHAPE:
                    raise BadRecording(
                        f"{path.name} was written by version {head.version} in another shape ({head.shape}) than this"
                        f" version reads ({SHAPE}). Replay it with that version, or record anew."
                    )
                return cls(path, head, _value(path, 2, file.readline(), "life ", Beginning))
        except OSError as error:
            raise BadRecording(f"{path.name} cannot be read: {error.strerror}.") from error

    def turns(self) -> Iterator[Turn]:
        """The turns, in order. Raises BadRecording at a line that belongs to no recording."""
        turn: Turn | None = None
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self.torn = True
                elif number > 2 and line.startswith(INDENT.encode()) and turn:
                    turn.lines.append(line.decode(errors="replace")[len(INDENT) : -1])
                elif number > 2 and line.startswith(b"end "):
                    self.end = line.decode(errors="replace")[4:-1]
                elif number > 2:
                    if turn:
                        yield turn
                    turn = Turn(_value(self._path, number, line, "batch ", Moment), [])
        if turn:
            yield turn


def _value(path: Path, number: int, line: bytes, name: str, kind: type[S]) -> S:
    try:
        if not line.startswith(name.encode()):
            raise BadRecording(f"{path.name}, line {number}: a line that begins with {name.strip()!r} should be there.")
        return msgspec.json.decode(line[len(name) :], type=kind)
    except DecodeError as error:  # a ValidationError is one
        raise BadRecording(f"{path.name}, line {number}: {error}.") from error
