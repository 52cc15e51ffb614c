"""What a child prints, line by line on the worker's stderr, marked with its task and limited."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import orjson

from core.printable import escaped_json
from core.reports import OUTPUT_LIMIT

__all__ = ["OUTPUT_LIMIT_BYTES", "TAIL_BYTES", "ChildOutput"]

#: Of one attempt. The rest is read and dropped, so that whoever prints is never blocked; for a while only, since what
#: takes hours has logs that matter.
OUTPUT_LIMIT_BYTES = 64 * 1024
CAPPED_FOR_S = 60.0

#: Of the end of what an attempt prints, kept for its record.
TAIL_BYTES = OUTPUT_LIMIT

READ_BYTES = 64 * 1024

#: Reads at the end of an attempt to find what it printed last: enough for a full pipe, and no more for a flood.
LAST_READS = 4

#: What each line of a log in JSON has.
LOGGED = frozenset({"time", "level", "logger", "message"})

#: A line longer than this is cut in pieces.
LINE_BYTES = 8 * 1024

#: Control characters are shown, not sent to the terminal: they could hide or forge lines.
ESCAPES = {code: f"\\x{code:02x}" for code in [*range(9), *range(10, 32), *range(127, 160)]}
#: Some take the first two for the end of a line; the others turn the direction of the text.
ESCAPES |= {code: f"\\u{code:x}" for code in [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]}


def to_stderr(text: str) -> None:
    """Where nobody reads it any more, or there is no stderr, it is dropped: no reason for an attempt to fail."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


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
        """`logs_json`: its logs are JSON, an object a line, and are to stay that."""
        self._descriptor = descriptor
        self._write = write
        self._logs_json = logs_json
        self._task_id = "-"
        self._left = OUTPUT_LIMIT_BYTES
        self._now_s = now_s
        self._capped_until_s = 0.0
        self._line = b""
        self.tail = b""  #: the last TAIL_BYTES of the attempt, beyond the limit as well
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def begin(self, task_id: str) -> None:
        """From now on it is `task_id` that prints."""
        self._task_id, self._left, self.tail = task_id, OUTPUT_LIMIT_BYTES, b""

    def end(self) -> None:
        """The attempt is over: what is still in the pipe is its own."""
        for _ in range(LAST_READS):
            if self._descriptor < 0 or not self._read():
                break
        self._end_line()

    def close(self) -> None:
        self.end()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> bool:
        """Whether there was something."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._descriptor)  # else it would be called again and again
            return False
        self.tail = (self.tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        if self._left <= 0 and self._now_s() >= self._capped_until_s:
            self._left = OUTPUT_LIMIT_BYTES
        if self._left > 0:
            self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        capped = len(data) >= self._left
        data, self._left = data[: self._left], self._left - len(data)
        *lines, self._line = (self._line + data).split(b"\n")
        while len(self._line) > LINE_BYTES:
            lines.append(self._line[:LINE_BYTES])
            self._line = self._line[LINE_BYTES:]
        text = "".join(map(self._marked, lines))
        if capped:
            text += self._marked(self._line) if self._line else ""
            text += self._marked(b"output capped at %d KiB for a minute" % (OUTPUT_LIMIT_BYTES // 1024))
            self._line = b""
            self._capped_until_s = self._now_s() + CAPPED_FOR_S
        if text:
            self._write(text)

    def _end_line(self) -> None:
        if self._line:
            self._write(self._marked(self._line))
            self._line = b""

    def _marked(self, line: bytes) -> str:
        if self._logs_json and line.startswith(b"{") and (entry := _log_entry(line)):
            return escaped_json(orjson.dumps({**entry, "task_id": self._task_id}).decode()) + "\n"
        return f"[{self._task_id}] {line.decode(errors='replace').translate(ESCAPES)}\n"


def _log_entry(line: bytes) -> dict[str, Any]:
    """What a line of a log says; {} when it is none: what is merely printed is no log, whatever it looks like."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return entry if isinstance(entry, dict) and entry.keys() >= LOGGED else {}
