"""A TCP proxy in front of a Redis server, which injects faults of the network.

    with Proxy(server.socket) as proxy:                  agents connect to proxy.url
        proxy.delay(to_server_s=0.05, to_client_s=0.05)
        proxy.black_hole(to_client=True)                 nothing arrives, and nobody notices
        proxy.on_request(command("EXEC"), "swallow")     it is executed, but its reply is lost
        proxy.heal()

It works in a thread with an event loop of its own, so it can be called from anywhere. When a call returns, it is in
effect. Faults affect all connections of the proxy; to cut one agent off, give it a proxy of its own. A rule made by
`on_request` affects only the connection with that request.

As on a real network, nothing is lost in the middle of a connection that goes on: what a black hole or a delay holds
back is delivered later, in order, even if its sender has long given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

__all__ = ["Action", "Counters", "Proxy", "Rule", "command"]

#: What happens to the connection on which a request matches.
#: reset: the server never sees the request, and both ends get a reset; swallow: the server executes it, and the client
#: gets a reset in place of the reply; hold: from this request on nothing passes in either direction until `heal`.
Action = Literal["reset", "swallow", "hold"]

#: Maximal length of a match. A match may be split between two reads, so the end of the last one is searched again.
MAX_MATCH_BYTES = 256
#: Seconds that a server may take to close its side after it was told that no more requests come.
SERVER_CLOSES_S = 2.0
#: Seconds after which the thread counts as stuck.
OBEYS_S = 10.0
#: With SO_LINGER of zero, closing sends a reset, and drops what was not sent.
_NO_TIME = struct.pack("ii", 1, 0)


def command(name: str) -> bytes:
    """The match for a request in which `name` is a complete part."""
    return b"$%d\r\n%s\r\n" % (len(name), name.encode())


@dataclass(slots=True)
class Rule:
    """Applies an action to the `nth` request from now on that contains `match`, and to the next `times` - 1."""

    match: bytes
    action: Action
    nth: int = 1
    times: int = 1
    seen: int = 0  #: number of matching requests so far
    hits: int = 0  #: number of times that it has acted

    def __post_init__(self) -> None:
        if not 1 <= len(self.match) <= MAX_MATCH_BYTES:
            raise ValueError(f"a match has 1 to {MAX_MATCH_BYTES} bytes, not {len(self.match)}")

    def meets(self, before: bytes, data: bytes) -> bool:
        """Counts the matches in `data`, which follows `before`. Returns whether the rule acts now."""
        known = before[len(before) - len(self.match) + 1 :] if len(before) >= len(self.match) else before
        for _ in range((known + data).count(self.match)):
            self.seen += 1
            if self.nth <= self.seen < self.nth + self.times:
                self.hits += 1
                return True
        return False


@dataclass(slots=True)
class Counters:
    """The traffic so far."""

    accepted: int = 0  #: number of connections, without those that a cut refused
    refused: int = 0  #: number of connections that a cut reset at once
    open: int = 0  #: number of open connections
    peak_open: int = 0
    reset: int = 0  #: number of connections that the proxy has ended
    to_server_bytes: int = 0
    to_client_bytes: int = 0


@dataclass(slots=True)
class _Way:
    """One direction of all connections."""

    delay_s: float = 0.0
    held: bool = False


class Proxy:
    """Passes connections on to `upstream`, which is the path of a Unix socket, or a host and a port.

    Use it as a context manager: inside, it listens on a port of its own at the loopback address; afterwards everything
    is closed.
    """

    def __init__(self, upstream: Path | tuple[str, int]) -> None:
        self.upstream = upstream
        self.to_server, self.to_client = _Way(), _Way()
        self.rules: list[Rule] = []
        self.counters = Counters()
        self._cut = False
        self._connections: set[_Connection] = set()

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._end, self._empty = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(OBEYS_S)

    @property
    def url(self) -> str:
        """The value for REDIS_URL; the password belongs in REDIS_PASSWORD."""
        return f"redis://127.0.0.1:{self.port}/0"

    def delay(self, *, to_server_s: float = 0.0, to_client_s: float = 0.0) -> None:
        """Delays everything that is sent from now on, in seconds."""

        def change() -> None:
            self.to_server.delay_s, self.to_client.delay_s = to_server_s, to_client_s

        self._do(change)

    def black_hole(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Stops everything in these directions, even the end of a connection. New connections are still accepted."""

        def change() -> None:
            self.to_server.held, self.to_client.held = to_server, to_client
            self._flow()

        self._do(change)

    def cut(self) -> None:
        """Resets all connections, and each new one immediately, until `heal`."""

        def change() -> None:
            self._cut = True
            self._reset()

        self._do(change)

    def reset(self) -> None:
        """Resets all present connections. New ones are accepted."""
        self._do(self._reset)

    def retarget(self, upstream: Path | tuple[str, int]) -> None:
        """Leads to another server from now on, as a name does after a failover. Open connections are reset."""

        def change() -> None:
            self.upstream = upstream
            self._reset()

        self._do(change)

    def heal(self) -> None:
        """Lets everything pass again, beginning with what was held back, and removes all rules."""

        def change() -> None:
            self._cut = False
            self.to_server.held = self.to_client.held = False
            self.to_server.delay_s = self.to_client.delay_s = 0.0
            self.rules.clear()
            for connection in self._connections:
                connection.held = False
            self._flow()

        self._do(change)

    def on_request(self, match: bytes, action: Action, *, nth: int = 1, times: int = 1) -> Rule:
        """Does `action` when a request contains `match`: at the `nth` from now on, and at the next `times` - 1.

        Returns the rule, which keeps counting. Raises ValueError when the match is empty or too long.
        """
        rule = Rule(match, action, nth, times)
        self._do(lambda: self.rules.append(rule))
        return rule

    def _do(self, change: Callable[[], None]) -> None:
        """Makes a change in the proxy's thread, and returns when it is made."""
        made = threading.Event()

        def run() -> None:
            try:
                change()
            finally:
                made.set()

        self._loop.call_soon_threadsafe(run)
        if not made.wait(OBEYS_S):
            raise TimeoutError(f"the proxy on port {self.port} has not obeyed for {OBEYS_S:g} s")

    # ---- in the thread ----

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: _Connection(self).client, sock=self._listening)
        await self._end.wait()
        server.close()
        self._reset()
        if self._connections:
            await self._empty.wait()

    def _flow(self) -> None:
        for connection in self._connections:
            connection.client.flow()
            connection.server.flow()

    def _reset(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    def admits(self, connection: _Connection) -> bool:
        if self._cut or self._end.is_set():
            self.counters.refused += 1
            return False
        self._connections.add(connection)
        self.counters.accepted += 1
        self.counters.open += 1
        self.counters.peak_open = max(self.counters.peak_open, self.counters.open)
        return True

    def forget(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self.counters.open -= 1
            if not self._connections and self._end.is_set():
                self._empty.set()


class _End(asyncio.Protocol):
    """One end of a connection, and the data on their way to that end."""

    def __init__(self, connection: _Connection, way: _Way) -> None:
        self._connection = connection
        self._way = way
        self._coming: deque[tuple[float, bytes]] = deque()  # (when they are due, bytes; empty: the end)
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.lost = False

    def send(self, data: bytes) -> None:
        """Sends `data` to this end; empty: nothing more will come."""
        due_s = asyncio.get_running_loop().time() + self._way.delay_s
        if self._coming:
            due_s = max(due_s, self._coming[-1][0])  # the order stays, even if the delay has become shorter
        self._coming.append((due_s, data))
        self.flow()

    def flow(self) -> None:
        """Delivers the data that are due."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._coming and self.transport is not None and not self._way.held and not self._connection.held:
            due_s, data = self._coming[0]
            if due_s > loop.time():
                self._timer = loop.call_at(due_s, self.flow)
                return
            self._coming.popleft()
            if not data:
                self.transport.close()
            elif not self.transport.is_closing():
                self.transport.write(data)

    def abort(self) -> None:
        """Ends the connection with a reset. Data on their way are dropped."""
        self._coming.clear()
        if self.transport is not None:
            raw = self.transport.get_extra_info("socket")
            if raw.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_TIME)
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connection.made(self)
        self.flow()

    def data_received(self, data: bytes) -> None:
        self._connection.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._connection.ended(self)

    def pause_writing(self) -> None:
        self._connection.other(self).read(False)

    def resume_writing(self) -> None:
        self._connection.other(self).read(True)

    def read(self, on: bool) -> None:
        """Reads from this end, or pauses reading."""
        if self.transport is not None and not self.transport.is_closing():
            (self.transport.resume_reading if on else self.transport.pause_reading)()


class _Connection:
    """A connection from a client, and the corresponding one to the server."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.client, self.server = _End(self, proxy.to_client), _End(self, proxy.to_server)
        self.held = False
        self._swallows = False  # whether the client gets a reset in place of the next reply
        self._before = b""  # the end of what the client has sent so far
        self._connecting: asyncio.Task[None] | None = None

    def other(self, end: _End) -> _End:
        return self.server if end is self.client else self.client

    def made(self, end: _End) -> None:
        if end is self.server:
            return
        if not self._proxy.admits(self):
            self.client.abort()
            return
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop, upstream = asyncio.get_running_loop(), self._proxy.upstream
        try:
            if isinstance(upstream, Path):
                await loop.create_unix_connection(lambda: self.server, str(upstream))
            else:
                await loop.create_connection(lambda: self.server, *upstream)
        except OSError:
            self.server.lost = True
            self.client.abort()  # as if nothing listened at the port

    def received(self, end: _End, data: bytes) -> None:
        counters = self._proxy.counters
        if end is self.client:
            counters.to_server_bytes += len(data)
            self._request(data)
        elif self._swallows:
            self._end_of_requests()
        else:
            counters.to_client_bytes += len(data)
            self.client.send(data)

    def _request(self, data: bytes) -> None:
        actions = [rule.action for rule in self._proxy.rules if rule.meets(self._before, data)]
        self._before = (self._before + data)[-MAX_MATCH_BYTES:]
        if "reset" in actions:
            self.reset()
            return
        self.held = self.held or "hold" in actions
        self._swallows = self._swallows or "swallow" in actions
        self.server.send(data)

    def _end_of_requests(self) -> None:
        """Handles the beginning of a swallowed reply. It tells the server that no more requests follow: the server then
        closes after it has executed everything that it has read."""
        server = self.server.transport
        if server is not None and not server.is_closing() and server.can_write_eof():
            server.write_eof()
            asyncio.get_running_loop().call_later(SERVER_CLOSES_S, self.reset)

    def ended(self, end: _End) -> None:
        other = self.other(end)
        if other.lost or (end is self.client and other.transport is None):
            self._close()
        elif end is self.server and self._swallows:
            self.reset()
        elif other.transport is not None and not other.transport.is_closing():
            other.send(b"")

    def _close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._proxy.forget(self)

    def reset(self) -> None:
        """Resets both sides."""
        if not (self.client.lost and self.server.lost):
            self._proxy.counters.reset += 1
        self.client.abort()
        self.server.abort()
