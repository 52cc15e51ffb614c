"""The append-only file of a server, read as what it is: every write that ever happened, in order, at no cost.

It needs the settings of `server.APPEND_ONLY`: then nothing is ever rewritten, and the parts that the manifest names,
one after the other, are the history since the data were last thrown away. What a transaction wrote lies between MULTI
and EXEC, and is given as one; so is a single write. Commands stand there as the server repeats them: XADD with the id
it chose, times to live as points in time, a key that ran out as DEL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

__all__ = ["AppendLog", "Transaction"]

#: DEL of a key that ran out; Valkey and newer servers free its memory in the background.
_DELETES = frozenset({b"DEL", b"UNLINK"})


@dataclass(frozen=True, slots=True)
class Transaction:
    """What was written at once: one command, or all between MULTI and EXEC."""

    at_s: int  #: the server's clock, whole seconds; 0: it did not say
    commands: tuple[tuple[bytes, ...], ...]  #: the name first, in capitals

    def named(self, name: bytes) -> Iterator[tuple[bytes, ...]]:
        """The arguments of all commands with that name."""
        return (command[1:] for command in self.commands if command[0] == name)

    def deleted(self) -> Iterator[bytes]:
        """The keys that it removed as a whole."""
        return (key for command in self.commands if command[0] in _DELETES for key in command[1:])


class AppendLog:
    """Of the server that keeps its data in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def end(self) -> int:
        """How long it is now: where `transactions` begins with what is written from now on."""
        return sum(part.stat().st_size for part in self._parts())

    def transactions(self, since: int = 0) -> Iterator[Transaction]:
        """From the position `since`, an earlier `end`. A tail that a killed server did not finish is left out."""
        for part in self._parts():
            size = part.stat().st_size
            if since < size:
                with part.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                    yield from _transactions(_items(data, since))
            since = max(0, since - size)

    def _parts(self) -> Sequence[Path]:
        """The files that the manifest names, in its order: the base, then what was appended to it."""
        try:
            [manifest] = self._directory.glob("*.manifest")
            lines = manifest.read_text().splitlines()
        except (ValueError, FileNotFoundError):
            return []
        fields = [line.split() for line in lines if line and not line.startswith("#")]
        named = [dict(zip(line[::2], line[1::2], strict=False)) for line in fields]
        return [self._directory / part["file"] for part in named if part["type"] != "h"]


#: A command, or the time that an annotation tells.
_Item = tuple[bytes, ...] | int


def _transactions(items: Iterator[_Item]) -> Iterator[Transaction]:
    at_s = 0
    written: list[tuple[bytes, ...]] | None = None  # since MULTI; without its EXEC it was never carried out
    for item in items:
        if isinstance(item, int):
            at_s = item
        elif item[0] == b"MULTI":
            written = []
        elif item[0] == b"EXEC":
            yield Transaction(at_s, tuple(written or ()))
            written = None
        elif item[0] == b"SELECT":  # stands before the first command of all, be it in a transaction
            continue
        elif written is not None:
            written.append(item)
        else:
            yield Transaction(at_s, (item,))


def _items(data: mmap, position: int) -> Iterator[_Item]:
    """From `position`, where one begins, to the last whole one."""
    while (end := data.find(b"\r\n", position)) >= 0:
        line, position = data[position:end], end + 2
        if line.startswith(b"#TS:"):
            yield int(line[4:])
        elif line.startswith(b"*"):
            parts: list[bytes] = []
            while len(parts) < int(line[1:]):
                if (end := data.find(b"\r\n", position)) < 0:
                    return
                start, position = end + 2, end + 4 + int(data[position + 1 : end])
                if position > len(data):
                    return
                parts.append(data[start : position - 2])
            yield (parts[0].upper(), *parts[1:])
