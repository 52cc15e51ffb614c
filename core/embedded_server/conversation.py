"""A few commands to a server over a plain socket.

Without the client library, whose import costs more than everything that is asked here.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

__all__ = ["Conversation", "NotRedis", "Refusal"]


class Refusal(Exception):
    """The server answered a command with an error, whose text this is."""


class NotRedis(Exception):
    """What answers does not speak the protocol. The beginning of what it said is its text."""


class Conversation:
    """One command at a time on an open socket, whose time-out holds for each read."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._replies = connection.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    @classmethod
    def over_unix_socket(cls, path: str, password: str, timeout_s: float) -> Self:
        """Raises OSError (a time-out is one), Refusal or NotRedis when it cannot enter."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(path)
            talk = cls(connection)
            talk.ask("AUTH", password)
        except BaseException:
            connection.close()
            raise
        return talk

    def ask(self, *command: str) -> str:
        """The reply to one command: a status, a number or a text. Raises OSError, Refusal or NotRedis."""
        parts = [part.encode() for part in command]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
        line = self._line()
        kind, rest = line[:1], line[1:].decode(errors="replace")
        if kind == b"-":
            raise Refusal(rest)
        if kind in {b"+", b":"}:
            return rest
        if kind != b"$" or not rest.isdigit():
            raise NotRedis(_beginning(line))
        return self._bytes(int(rest) + 2)[:-2].decode(errors="replace")

    def info(self, section: str) -> dict[str, str]:
        """The fields of one section of INFO. Raises like `ask`."""
        lines = self.ask("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _line(self) -> bytes:
        line = self._replies.readline(1024)
        if not line:
            raise ConnectionResetError("the connection was closed")
        if not line.endswith(b"\r\n"):
            raise NotRedis(_beginning(line))
        return line[:-2]

    def _bytes(self, count: int) -> bytes:
        data = self._replies.read(count)
        if len(data) < count:
            raise ConnectionResetError("the connection was closed")
        return data


def _beginning(said: bytes) -> str:
    return said[:40].decode(errors="replace")
