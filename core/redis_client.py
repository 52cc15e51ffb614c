"""The one place that opens connections to Redis.

`client` is for small commands that may be repeated: a pool, with retries. `Wire` is for everything whose outcome
matters: one connection, many commands in one write, their replies in order, and never a retry behind the caller's back,
since a command that is sent twice may take effect twice.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from core.config.endpoint import Endpoint
from core.config.settings import RedisConfig
from core.config.tls import certificate_error, tls_context
from core.config.variables import secret_text
from core.errors import AgentSystemError, ConfigError, ReplyTooLarge, TransportDown
from core.ports import Part, Receiver

__all__ = ["ResponseError", "Wire", "client"]

CONNECT_TIMEOUT_S = 2.0


def client(config: RedisConfig, *, timeout_s: float = 5.0) -> Redis:
    """A client for small idempotent commands: replies are bytes, each command is tried up to four times.

    It connects with its first command, and belongs to the event loop that runs then; `aclose()` it. It must not be used
    for a command that blocks as long as `timeout_s`.
    """
    endpoint = config.endpoint
    return Redis(
        host=endpoint.host,
        port=endpoint.port,
        unix_socket_path=endpoint.socket_path,
        db=endpoint.db,
        username=endpoint.username,
        password=secret_text(endpoint.password),
        socket_timeout=timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), retries=3),
        ssl=endpoint.use_tls,
        ssl_ca_certs=str(config.ca_path) if config.ca_path else None,
        ssl_certfile=str(config.cert_path) if config.cert_path else None,
        ssl_keyfile=str(config.key_path) if config.key_path else None,
        # A feature of one vendor's managed servers; asking for it costs a command and a warning on all others.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


class Wire:
    """One connection for raw exchanges, one at a time, in the reply shapes of RESP2.

    It belongs to one task of one event loop. After TransportDown or a cancellation it is closed, and `connect` opens it
    again: a reply that arrives late can never be taken for the answer to another command.
    """

    __slots__ = ("_config", "_let_in", "_link", "_timeout_s")

    def __init__(self, config: RedisConfig, *, timeout_s: float = 5.0, let_in: bool = False) -> None:
        """`let_in`: the server has let this process in before, over another connection."""
        self._config = config
        self._timeout_s = timeout_s
        self._link: _Link | None = None
        self._let_in = let_in

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.is_open

    async def connect(self) -> None:
        """Opens the connection, enters and selects the database; nothing happens when it is open.

        Raises TransportDown when the server cannot be reached within 2 s, is loading or is busy; ConfigError when it
        refuses the password, the user or the certificate. After one successful login such a refusal is treated as
        transient, since credentials are being changed, and is TransportDown.
        """
        if self.connected:
            return
        try:
            await self._enter()
        except ConfigError as error:
            if self._let_in:
                raise TransportDown(str(error)) from error
            raise
        self._let_in = True

    async def _enter(self) -> None:
        await self.close()
        endpoint = self._config.endpoint
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._link = await _open(self._config)
                replies = await self._link.exchange(_greeting(endpoint), CONNECT_TIMEOUT_S)
        except ssl.SSLCertVerificationError as error:
            raise certificate_error(self._config, error) from error
        except Exception as error:  # the timeout is one as well; a host name that is none, or what another loop raises
            await self.close()
            if isinstance(error, AgentSystemError):
                raise
            raise TransportDown(f"{endpoint} cannot be reached: {_why(error)}") from error
        except asyncio.CancelledError:
            await self.close()
            raise
        refusal = next((reply for reply in replies if isinstance(reply, ResponseError)), None)
        if refusal is not None:
            await self.close()
            raise _refused(endpoint, str(refusal))

    async def exchange(
        self, commands: Sequence[Sequence[Part]], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        """The replies to `commands`, in order, which travel in one write.

        Replies are bytes, int, None or lists of them; where the server refused a command, a
        `redis.exceptions.ResponseError` with its whole text ("NOGROUP No such key ...") stands in its place. Raises
        TransportDown when the connection is not open, breaks, or the replies are not complete after `timeout_s`
        (default: that of the wire): commands that were sent may or may not have been carried out. Raises ReplyTooLarge,
        which is one, when they exceed `max_bytes`: never more than about twice that is held in memory.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return await self._open_link().exchange(commands, timeout_s, max_bytes)

    def send(self, commands: Sequence[Sequence[Part]], receiver: Receiver) -> None:
        """See SendingConnection."""
        self._open_link().begin(commands, receiver, self._timeout_s)

    def _open_link(self) -> _Link:
        if self._link is None:
            raise TransportDown(f"the connection to {self._config.endpoint} is closed")
        return self._link

    async def close(self) -> None:
        """Closes the connection, at once; an exchange that is waiting raises TransportDown."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()


_pack = cast(Callable[[tuple[Part, ...]], bytes], hiredis.pack_command)  # declared for one part only
_MORE = object()  # what the parser says when a reply is not complete


class _Link(asyncio.Protocol):
    """An open connection. It has no streams between socket and parser, which would cost as much as all the rest."""

    __slots__ = (
        "_deadline_s", "_due_s", "_expected", "_left", "_loop", "_lost", "_name", "_reader", "_receiver", "_replies",
        "_timeout_s", "_timer", "_transport", "is_open",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=_NotRedis, replyError=ResponseError, notEnoughData=_MORE)
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._receiver: Receiver | None = None  #: of the exchange that goes on
        self._timeout_s = self._deadline_s = 0.0  #: of that exchange
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0  #: when the timer ends, not after the deadline
        self._replies: list[Any] = []
        self._expected = 0
        self._left: float = 0  # bytes that the replies may still have
        self.is_open = False

    async def exchange(
        self, commands: Sequence[Sequence[Part]], timeout_s: float, max_bytes: int | None = None
    ) -> list[Any]:
        waiter: asyncio.Future[list[Any]] = self._loop.create_future()
        self.begin(commands, waiter, timeout_s, max_bytes)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._fail("was left in the middle of an exchange")
            raise

    def begin(
        self, commands: Sequence[Sequence[Part]], receiver: Receiver, timeout_s: float, max_bytes: int | None = None
    ) -> None:
        if self._receiver is not None:
            raise RuntimeError("a wire carries one exchange at a time")
        packed = b"".join([_pack(tuple(command)) for command in commands])
        if self._transport is None or not self.is_open:
            raise TransportDown(f"the connection to {self._name} is closed")
        if not commands:
            receiver.set_result([])
            return
        self._replies, self._expected = [], len(commands)
        self._left = float("inf") if max_bytes is None else max_bytes
        self._receiver = receiver
        self._timeout_s, self._deadline_s = timeout_s, self._loop.time() + timeout_s
        if self._timer is None or self._due_s > self._deadline_s:
            self._set_timer()
        self._transport.write(packed)

    def _set_timer(self) -> None:
        """Has the deadline looked at. One timer serves many exchanges, since setting it takes longer than to pack a
        command."""
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = self._deadline_s
        self._timer = self._loop.call_at(self._due_s, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._receiver is None:
            return
        if self._deadline_s > self._due_s:  # that of a later exchange
            self._set_timer()
        else:
            self._fail(f"did not answer within {self._timeout_s:g} s")

    def _end(self) -> Receiver | None:
        """Ends the exchange that goes on, and gives who is to be told, if somebody is."""
        receiver, self._receiver = self._receiver, None
        return None if receiver is None or receiver.done() else receiver

    async def close(self) -> None:
        self._fail("was closed")
        if self._transport is not None:
            await asyncio.shield(self._lost)

    def _fail(self, why: str, kind: type[TransportDown] = TransportDown) -> None:
        """Ends the connection; a caller that waits for replies gets TransportDown."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (receiver := self._end()) is not None:
            receiver.set_exception(kind(f"{self._name} {why}"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # It is not checked: the transports of other loops, such as uvloop's, are not of asyncio's classes.
        self._transport, self.is_open = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        reader, replies = self._reader, self._replies
        self._left -= len(data)
        if self._left < 0:
            self._reader, self._replies = hiredis.Reader(), []  # they are freed now, and not with this link
            self._fail("sent a larger reply than there is room for", ReplyTooLarge)
            return
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                replies.append(reply)
        except _NotRedis:
            self._fail("does not speak the protocol of Redis")
            return
        if self._receiver is None or len(replies) > self._expected:
            self._fail("said something it was not asked for")
        elif len(replies) == self._expected and (receiver := self._end()) is not None:
            receiver.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"broke the connection: {exc}" if exc else "closed the connection")
        if not self._lost.done():
            self._lost.set_result(None)


class _NotRedis(Exception):
    """The received bytes are not a reply."""


async def _open(config: RedisConfig) -> _Link:
    endpoint, loop = config.endpoint, asyncio.get_running_loop()
    name = str(endpoint)
    if endpoint.socket_path is not None:
        _, link = await loop.create_unix_connection(lambda: _Link(name), endpoint.socket_path)
        return link
    tls = tls_context(config) if endpoint.use_tls else None
    transport, link = await loop.create_connection(lambda: _Link(name), endpoint.host, endpoint.port, ssl=tls)
    with suppress(OSError):  # a connection that has already broken is noticed soon enough
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return link


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _greeting(endpoint: Endpoint) -> list[tuple[Part, ...]]:
    """The commands on a new connection. The PING at the end is refused while the server loads or is busy."""
    greeting: list[tuple[Part, ...]] = []
    if endpoint.password is not None:
        user = (endpoint.username,) if endpoint.username else ()
        greeting.append(("AUTH", *user, endpoint.password.get_secret_value()))
    if endpoint.db:
        greeting.append(("SELECT", endpoint.db))
    return [*greeting, ("PING",)]


def _refused(endpoint: Endpoint, text: str) -> ConfigError | TransportDown:
    code = text.partition(" ")[0]
    if text.startswith("ERR AUTH"):
        return ConfigError(f"{endpoint} has no password, but REDIS_PASSWORD or REDIS_URL gives one. Unset it.")
    if code in {"NOAUTH", "WRONGPASS", "DENIED"}:
        return ConfigError(
            f"{endpoint} refuses to let us in ({code}). Set REDIS_PASSWORD and REDIS_USERNAME, or REDIS_URL."
        )
    if code == "NOPERM" or "DB index" in text:
        return ConfigError(f"{endpoint}: {text}. Use another user or another REDIS_DB.")
    return TransportDown(f"{endpoint} is not ready: {text}")
