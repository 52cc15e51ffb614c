"""Where a command's output goes: what cannot be written there ends no command, and is known in the end.

The exit code tells of what was done. A pipe that is closed, as by `head`, is no error: enough was read.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys

__all__ = ["EXIT_UNWRITTEN", "Outlet", "is_unread"]

#: The exit code of a command that has done its work, but whose output is lost.
EXIT_UNWRITTEN = 74


class Outlet(io.FileIO):
    """One of the standard streams, whose writes never fail."""

    failure: OSError | None = None  #: the first error, if there was one

    @classmethod
    def replacing(cls, name: str, descriptor: int) -> Outlet:
        """Replaces `sys.stdout` or `sys.stderr`. Characters that its encoding lacks are written with a backslash."""
        if not _is_open(descriptor):
            os.open(os.devnull, os.O_RDWR)  # otherwise the next file or socket would get this descriptor
        before: io.TextIOBase | None = getattr(sys, name)
        outlet = cls(descriptor, "w", closefd=False)
        encoding = (before and before.encoding) or "utf-8"
        at_once = name == "stderr" or outlet.isatty()
        stream = io.TextIOWrapper(io.BufferedWriter(outlet), encoding, "backslashreplace", line_buffering=at_once)
        setattr(sys, name, stream)
        return outlet

    def write(self, data: object) -> int:
        """Writes `data`. If that fails, it is dropped, and counts as written."""
        view = memoryview(data)  # type: ignore[arg-type]  # whatever a BufferedWriter hands over
        try:
            return super().write(view) or 0
        except OSError as error:
            self.failure = self.failure or error
            return view.nbytes

    @property
    def lost(self) -> str:
        """Why output was lost that somebody wanted to read; empty if none was."""
        if self.failure is None or self.failure.errno == errno.EPIPE:
            return ""
        return os.strerror(self.failure.errno or 0)


def is_unread() -> bool:
    """Whether what goes to stdout reaches nobody any more, so that a command that prints without end can leave."""
    outlet = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(outlet, Outlet):
        return False
    return outlet.failure is not None or _is_hung_up(outlet.fileno())


def _is_hung_up(descriptor: int) -> bool:
    """Whether the other end of a pipe or a terminal is gone, without writing to it."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
