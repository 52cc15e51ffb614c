"""Connections of clients, who may be slow, dead, or too many: none is kept that nobody uses, and there is always room
for those to Redis."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from core.gateway.looks import Waits

__all__ = ["LimitedProtocol", "give_up_dead_peers", "limited_protocol"]

#: How long a client may take to say what it wants, s.
HEADERS_S = 15.0
#: How long a peer may leave what it is sent unread or unconfirmed, or be silent without answering, s.
DEAD_S = 60
#: Share of the file descriptors that connections of clients may have. The rest is for Redis, whatever clients do.
SHARE = 0.75
#: Files that it may open where there is no limit; macOS allows no more.
WITHOUT_LIMIT = 10_240
WHY = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"this gateway has as many connections'
    b' as it may; try another one, or later"}'
)
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(WHY), WHY)
)


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with bounds."""

    max_connections: ClassVar[int]
    refusing: ClassVar[Waits]
    _overdue: asyncio.TimerHandle | None = None  #: closes the connection unless a request has come by then

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self.refusing.failed(OSError(f"{self.max_connections} are open. Raise the limit of open files (ulimit -n)"))
            transport.write(FULL)
            transport.close()
            return
        self.refusing.succeeded()
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        waits = cycle is None or cycle.response_complete
        if not waits or self.transport.get_protocol() is not self:  # it has become a WebSocket
            self._expect_nothing()
        elif self._overdue is None:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self._overdue = self.loop.call_later(HEADERS_S, self.timeout_keep_alive_handler)

    def _expect_nothing(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


def limited_protocol() -> type[LimitedProtocol]:
    """The protocol with as many connections as this process may have, whose limit of open files is raised as far as it
    goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = max(soft, WITHOUT_LIMIT) if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    limits = {
        "max_connections": int(files * SHARE),
        "refusing": Waits("connections are refused", "connections_refused"),
    }
    return type("GatewayProtocol", (LimitedProtocol,), limits)


def give_up_dead_peers(listening: socket.socket) -> None:
    """Has the system end connections to peers that are gone, or do not read what they are sent. They inherit it."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", DEAD_S // 2), ("TCP_KEEPINTVL", 10), ("TCP_USER_TIMEOUT", DEAD_S * 1000)):
        if hasattr(socket, option):  # not everywhere
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
