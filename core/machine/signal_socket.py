"""Delivers signals as bytes on a socket, for a program without an event loop that sleeps in `select`."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress

__all__ = ["SignalSocket"]

READ_BYTES = 4096


class SignalSocket:
    """A socket that becomes readable when one of the signals has come. It replaces their handlers. A process can have
    one, which its main thread makes."""

    def __init__(self, *numbers: int) -> None:
        self._received, self._sent = socket.socketpair()  # the interpreter writes to the second on every signal
        self._received.setblocking(False)
        self._sent.setblocking(False)
        signal.set_wakeup_fd(self._sent.fileno(), warn_on_full_buffer=False)
        for number in numbers:  # without a handler the byte would not be written
            signal.signal(number, lambda number, frame: None)

    def fileno(self) -> int:
        """The descriptor for `select`."""
        return self._received.fileno()

    @property
    def descriptors(self) -> tuple[int, int]:
        """Its descriptors, which no child may hold."""
        return self._received.fileno(), self._sent.fileno()

    def take(self) -> bytes:
        """The numbers of the signals that have come since the last call, in order."""
        numbers = b""
        with suppress(BlockingIOError):
            while True:
                numbers += self._received.recv(READ_BYTES)
        return numbers

    def close(self) -> None:
        """Closes the socket in a forked child, so that the child's signals no longer reach its parent's socket."""
        signal.set_wakeup_fd(-1)
        self._received.close()
        self._sent.close()
