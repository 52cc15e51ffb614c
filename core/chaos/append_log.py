"""Reads the append-only file of a server: every write that ever happened, in order.

This requires the settings in `server.APPEND_ONLY`. With them nothing is rewritten, and the parts that the manifest
lists are the history since the data were last deleted. The writes of a transaction are between MULTI and EXEC, and are
returned together; a single write is returned alone. Commands are recorded in the form in which the server would repeat
them: XADD with the chosen id, times to live as points in time, and the expiry of a key as DEL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

__all__ = ["AppendLog", "Transaction"]

#: The commands that delete a key; for an expired key, Valkey and newer servers free the memory in the background.
_DELETES = frozenset({b"DEL", b"UNLINK"})


@dataclass(frozen=True, slots=True)
class Transaction:
    """What was written atomically: one command, or all between MULTI and EXEC."""

    at_s: int  #: by the server's clock, in whole seconds; 0: unknown
    commands: tuple[tuple[bytes, ...], ...]  #: each with its name first, in capitals

    def named(self, name: bytes) -> Iterator[tuple[bytes, ...]]:
        """The arguments of each command with that name."""
        return (command[1:] for command in self.commands if command[0] == name)

    def deleted(self) -> Iterator[bytes]:
        """The keys that it deleted."""
        return (key for command in self.commands if command[0] in _DELETES for key in command[1:])


class AppendLog:
    """The append-only file of the server whose data are in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def end(self) -> int:
        """Its present length, which is the position of what is written from now on."""
        return sum(part.stat().st_size for part in self._parts())

    def transactions(self, since: int = 0) -> Iterator[Transaction]:
        """The transactions from the position `since`, an earlier `end`. What a killed server did not finish writing is
        left out."""
        for part in self._parts():
            size = part.stat().st_size
            if since < size:
                with part.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                    yield from _transactions(_items(data, since))
            since = max(0, since - size)

    def _parts(self) -> Sequence[Path]:
        """The files that the manifest lists, in order: the base, and then what was appended."""
        try:
            [manifest] = self._directory.glob("*.manifest")
            lines = manifest.read_text().splitlines()
        except (ValueError, FileNotFoundError):
            return []
        fields = [line.split() for line in lines if line and not line.startswith("#")]
        named = [dict(zip(line[::2], line[1::2], strict=False)) for line in fields]
        return [self._directory / part["file"] for part in named if part["type"] != "h"]


#: A command, or the time in an annotation.
_Item = tuple[bytes, ...] | int


def _transactions(items: Iterator[_Item]) -> Iterator[Transaction]:
    at_s = 0
    written: list[tuple[bytes, ...]] | None = None  # since MULTI; without an EXEC it was never executed
    for item in items:
        if isinstance(item, int):
            at_s = item
        elif item[0] == b"MULTI":
            written = []
        elif item[0] == b"EXEC":
            yield Transaction(at_s, tuple(written or ()))
            written = None
        elif item[0] == b"SELECT":  # it precedes the very first command, even inside a transaction
            continue
        elif written is not None:
            written.append(item)
        else:
            yield Transaction(at_s, (item,))


def _items(data: mmap, position: int) -> Iterator[_Item]:
    """The items from `position`, where one begins, to the last complete one."""
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
