"""A few commands to a server over a plain socket.

Without redis-py, whose import costs more than everything that is asked here; hiredis alone costs next to nothing.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any, Final, Self, cast

import hiredis

__all__ = ["Conversation", "NotRedis", "Refusal"]

#: The longest reply that we ask for, a section of INFO, has a tenth of this.
_MAX_REPLY_BYTES: Final = 64 * 1024
#: Stands for a reply that has not arrived completely.
_MORE: Final = object()


class Refusal(Exception):
    """The server answered a command with an error. Its message is the text of that error."""


class NotRedis(Exception):
    """The peer does not speak the protocol. The message is the beginning of what it sent."""


class Conversation:
    """Sends one command at a time over an open socket, whose timeout applies to each read."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._replies = hiredis.Reader(replyError=Refusal, notEnoughData=_MORE, encoding="utf-8", errors="replace")
        self._said = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @classmethod
    def over_unix_socket(cls, path: str, password: str, timeout_s: float) -> Self:
        """A conversation over a Unix socket, after authentication. Raises OSError (also for a timeout), Refusal,
        NotRedis."""
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
        self._socket.sendall(hiredis.pack_command(cast(Any, command)))  # its type is declared too narrowly
        try:
            while (reply := self._replies.gets()) is _MORE:
                self._read()
        except hiredis.ProtocolError:
            raise NotRedis(self._said[:40].partition(b"\r")[0].decode(errors="replace")) from None
        if isinstance(reply, Refusal):
            raise reply
        return str(reply)

    def info(self, section: str) -> dict[str, str]:
        """The fields of one section of INFO. Raises as `ask` does."""
        lines = self.ask("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _read(self) -> None:
        said = self._socket.recv(_MAX_REPLY_BYTES)
        if not said:
            raise ConnectionResetError("the connection was closed")
        self._said = said
        self._replies.feed(said)
        if self._replies.len() > _MAX_REPLY_BYTES:
            raise hiredis.ProtocolError("more than was asked for")
