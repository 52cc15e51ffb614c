"""Signals as bytes to be read, for a program without an event loop that sleeps in `select`."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress

__all__ = ["SignalSocket"]

READ_BYTES = 4096


class SignalSocket:
    """Readable once one of the signals has come; no other handler of theirs is called any more. One in a process, made
    in its main thread."""

    def __init__(self, *numbers: int) -> None:
        self._received, self._sent = socket.socketpair()  # the interpreter writes to the second on every signal
        self._received.setblocking(False)
        self._sent.setblocking(False)
        signal.set_wakeup_fd(self._sent.fileno(), warn_on_full_buffer=False)
        for number in numbers:  # without a handler the byte would not be written
            signal.signal(number, lambda number, frame: None)

    def fileno(self) -> int:
        """What to `select` on."""
        return self._received.fileno()

    @property
    def descriptors(self) -> tuple[int, int]:
        """Ours, which a child must not hold."""
        return self._received.fileno(), self._sent.fileno()

    def take(self) -> bytes:
        """The numbers of the signals that have come since the last call, in their order."""
        numbers = b""
        with suppress(BlockingIOError):
            while True:
                numbers += self._received.recv(READ_BYTES)
        return numbers

    def close(self) -> None:
        """In a child that was forked: signals are no business of its parent's socket any more."""
        signal.set_wakeup_fd(-1)
        self._received.close()
        self._sent.close()
