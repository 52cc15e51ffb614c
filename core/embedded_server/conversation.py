"""A few commands to a server over a plain socket.

Without redis-py, whose import costs more than everything that is asked here; hiredis alone costs next to nothing.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any, Final, Self, cast

import hiredis

__all__ = ["Conversation", "NotRedis", "Refusal"]

#: The longest that is asked for here, a section of INFO, is a tenth of it.
_MAX_REPLY_BYTES: Final = 64 * 1024
#: stands where a reply has not arrived as a whole yet
_MORE: Final = object()


class Refusal(Exception):
    """The server answered a command with an error, whose text this is."""


class NotRedis(Exception):
    """What answers does not speak the protocol. The beginning of what it said is its text."""


class Conversation:
    """One command at a time on an open socket, whose time-out holds for each read."""

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
        self._socket.sendall(hiredis.pack_command(cast(Any, command)))  # declared for one part only
        try:
            while (reply := self._replies.gets()) is _MORE:
                self._read()
        except hiredis.ProtocolError:
            raise NotRedis(self._said[:40].partition(b"\r")[0].decode(errors="replace")) from None
        if isinstance(reply, Refusal):
            raise reply
        return str(reply)

    def info(self, section: str) -> dict[str, str]:
        """The fields of one section of INFO. Raises like `ask`."""
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
