"""Passes on what a child prints, line by line, to the worker's stderr, marked with its task and limited."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import orjson

from core.printable import escaped_json
from core.reports import OUTPUT_LIMIT

__all__ = ["OUTPUT_LIMIT_BYTES", "TAIL_BYTES", "AttemptOutput", "ChildOutput"]

#: Bytes that one attempt may print. The rest is read and dropped, so that printing never blocks. After CAPPED_FOR_S it
#: may print as much again, since the later logs of a long attempt matter too.
OUTPUT_LIMIT_BYTES = 64 * 1024
CAPPED_FOR_S = 60.0

#: Bytes from the end of what an attempt prints that are kept for its record.
TAIL_BYTES = OUTPUT_LIMIT

READ_BYTES = 64 * 1024

#: Number of reads at the end of an attempt: enough to empty a full pipe, and limited in case the printing goes on.
LAST_READS = 4

#: The fields that each line of a JSON log has.
LOGGED = frozenset({"time", "level", "logger", "message"})

#: A line that is longer than this is cut into pieces.
LINE_BYTES = 8 * 1024

#: Lines that are told together.
LINES_TOLD = 50

#: Control characters are escaped, since on a terminal they could hide or forge lines.
ESCAPES = {code: f"\\x{code:02x}" for code in [*range(9), *range(10, 32), *range(127, 160)]}
#: Some programs take the first two for the end of a line; the others change the direction of the text.
ESCAPES |= {code: f"\\u{code:x}" for code in [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]}


def to_stderr(text: str) -> None:
    """Writes `text` to stderr. It is dropped if there is no stderr, or nobody reads it any more: that must not fail an
    attempt."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


class AttemptOutput:
    """What one attempt prints: passed on line by line, marked with its task, up to the limit."""

    def __init__(
        self,
        task_id: str,
        tell: Callable[[str], None] | None = None,
        write: Callable[[str], object] = to_stderr,
        *,
        logs_json: bool = False,
        now_s: Callable[[], float] = monotonic,
    ) -> None:
        """`tell` is called with its lines, as far as they are passed on. `logs_json`: logs among them are JSON, an
        object a line, and stay that way."""
        self._task_id = task_id
        self._tell = tell
        self._write = write
        self._logs_json = logs_json
        self._left = OUTPUT_LIMIT_BYTES
        self._now_s = now_s
        self._capped_until_s = 0.0
        self._line = b""
        self.tail = b""  #: the last TAIL_BYTES, beyond the limit as well

    def take(self, data: bytes) -> None:
        """Takes what it has printed next."""
        self.tail = (self.tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        if self._left <= 0 and self._now_s() >= self._capped_until_s:
            self._left = OUTPUT_LIMIT_BYTES
        if self._left > 0:
            self._pass_on(data)

    def end(self) -> None:
        """Passes on a last line that has no end."""
        if self._line:
            self._tell_of([self._line])
            self._write(self._marked(self._line))
            self._line = b""

    def _pass_on(self, data: bytes) -> None:
        capped = len(data) >= self._left
        data, self._left = data[: self._left], self._left - len(data)
        *lines, self._line = (self._line + data).split(b"\n")
        while len(self._line) > LINE_BYTES:
            lines.append(self._line[:LINE_BYTES])
            self._line = self._line[LINE_BYTES:]
        self._tell_of(lines)
        text = "".join(map(self._marked, lines))
        if capped:
            text += self._marked(self._line) if self._line else ""
            text += self._marked(b"output capped at %d KiB for a minute" % (OUTPUT_LIMIT_BYTES // 1024))
            self._line = b""
            self._capped_until_s = self._now_s() + CAPPED_FOR_S
        if text:
            self._write(text)

    def _tell_of(self, lines: Sequence[bytes]) -> None:
        for start in range(0, len(lines) if self._tell else 0, LINES_TOLD):
            text = b"\n".join(lines[start : start + LINES_TOLD]).decode(errors="replace")
            if self._tell:
                self._tell(text[:LINE_BYTES])

    def _marked(self, line: bytes) -> str:
        if self._logs_json and line.startswith(b"{") and (entry := _log_entry(line)):
            return escaped_json(orjson.dumps({**entry, "task_id": self._task_id}).decode()) + "\n"
        return f"[{self._task_id}] {line.decode(errors='replace').translate(ESCAPES)}\n"


class ChildOutput:
    """Reads the pipe that is stdout and stderr of a child."""

    def __init__(
        self,
        descriptor: int,
        write: Callable[[str], object] = to_stderr,
        *,
        logs_json: bool = False,
        now_s: Callable[[], float] = monotonic,
    ) -> None:
        """`descriptor`: this end of the pipe. `logs_json`: as for AttemptOutput."""
        self._descriptor = descriptor
        self._made = partial(AttemptOutput, write=write, logs_json=logs_json, now_s=now_s)
        self._of = self._made("-")
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    @property
    def tail(self) -> bytes:
        """The last TAIL_BYTES of the attempt."""
        return self._of.tail

    def begin(self, task_id: str, tell: Callable[[str], None] | None = None) -> None:
        """Attributes everything in the pipe from now on to an attempt at `task_id`. `tell`: as for AttemptOutput."""
        self._of = self.of_run(task_id, tell)

    def of_run(self, task_id: str, tell: Callable[[str], None] | None = None) -> AttemptOutput:
        """For what an attempt prints past the pipe, which is shown likewise."""
        return self._made(task_id, tell)

    def end(self) -> None:
        """Ends an attempt. What is still in the pipe belongs to it."""
        for _ in range(LAST_READS):
            if self._descriptor < 0 or not self._read():
                break
        self._of.end()

    def close(self) -> None:
        self.end()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> bool:
        """Reads the pipe once. Returns whether there was anything to read."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._descriptor)  # otherwise the loop would call this again and again
            return False
        self._of.take(data)
        return True


def _log_entry(line: bytes) -> dict[str, Any]:
    """The fields of a line of a JSON log; empty if the line is something else."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return entry if isinstance(entry, dict) and entry.keys() >= LOGGED else {}
