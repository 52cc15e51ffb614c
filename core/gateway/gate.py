"""What every request passes before a route sees it, and what becomes of a bug in one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from core.errors import WorldError
from core.gateway.access import NOBODY, OF_THIS_MACHINE, ApiKey, Caller, caller_of, is_loopback, of_loopback, whose
from core.gateway.open_requests import Closing, OpenRequest
from core.gateway.problems import Problem, place_of_bug, problem_of, response_of
from core.gateway.rbac import Action, action_of, check_may
from core.gateway.sse import StreamCut
from core.gateway.tokens import Tokens

__all__ = ["Door", "Gate", "check_rate"]

log = logging.getLogger(__name__)

#: Takes one request of the caller of that full name into account. Returns after how many seconds it may be made; 0:
#: now.
Rates = Callable[[str], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Door:
    """Who is let in, and how much of it."""

    keys: tuple[ApiKey, ...] = ()
    tokens: Tokens | None = None
    origins: tuple[str, ...] = ()  #: pages of a browser, besides those of this machine
    body_bytes: int = 4 * 1024 * 1024
    max_requests: int = 5000  #: that are answered at the same time
    rates: Rates | None = None  #: None: no limit

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key, so that only this machine may come in."""
        return not self.keys and not self.tokens


class Gate:
    """The outermost part of the application, but for CORS. It puts the Caller into the scope of each request, and the
    Rates that hold for what comes over a WebSocket."""

    def __init__(self, app: ASGIApp, door: Door, closing: Closing) -> None:
        self._app = app
        self._door = door
        self._closing = closing
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        self._inside += 1
        try:
            try:
                scope["caller"] = await self._let_in(scope, Headers(scope=scope))
                scope["rates"] = self._door.rates
            except Problem as problem:
                await response_of(problem)(scope, receive, send)
            except WorldError as error:
                await response_of(problem_of(error))(scope, receive, send)
            else:
                await self._answer(scope, receive, send)
        finally:
            self._inside -= 1

    async def _let_in(self, scope: Scope, headers: Headers) -> Caller:
        """Raises Problem; WorldError."""
        self._check_size(headers)
        method, path = scope.get("method", "GET"), scope["path"]
        action = action_of(method, path)
        if self._door.is_open:
            self._check_of_this_machine(headers)
            caller = OF_THIS_MACHINE
        elif action is Action.KNOCK and not _credential(headers):
            return NOBODY
        else:
            caller = self._whose(headers)
        check_may(caller, action)
        if self._inside > self._door.max_requests:
            raise Problem(503, f"this gateway answers {self._door.max_requests} requests already, as many as"
                               " GATEWAY_MAX_REQUESTS says; try another one, or later")  # fmt: skip
        await _check_rate(self._door.rates, caller)
        return caller

    def _check_size(self, headers: Headers) -> None:
        if "transfer-encoding" in headers:
            raise Problem(411, "the body has no Content-Length; send it with one")
        if headers.get("content-encoding", "identity") != "identity":
            raise Problem(415, "the body is compressed, which this gateway does not read; send it as it is")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._door.body_bytes:
            raise Problem(
                413, f"the body has {length[:20]} bytes, over the limit of {self._door.body_bytes} (GATEWAY_BODY_MB)"
            )

    def _check_of_this_machine(self, headers: Headers) -> None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        origin = headers.get("origin", "")
        if not is_loopback(host) or (origin and not of_loopback(origin) and origin not in self._door.origins):
            raise Problem(403, "without GATEWAY_KEYS, only pages and programs of this machine may use this gateway")

    def _whose(self, headers: Headers) -> Caller:
        credential = _credential(headers)
        if not credential:
            raise Problem(401, "give an API key, as X-Api-Key or Authorization: Bearer, or a token as the latter")
        if (caller := whose(credential, self._door.keys)) is not None:
            return caller
        if self._door.tokens and credential.count(".") == 2:
            return self._door.tokens.whose(credential)
        raise Problem(401, "this API key is not known here; GATEWAY_KEYS has those that are")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = OpenRequest(scope, receive, send, self._closing)
        try:
            await request.answer(self._app)
        except (ClientDisconnect, StreamCut):
            pass  # the server cuts the connection, and the client of a stream sees that it is not complete
        except Exception as error:
            route = getattr(scope.get("route"), "path", "")
            said = place_of_bug(error)
            log.error("a request met a bug: %s", said, extra={"action": "request_failed", "route": route})
            if not request.has_begun:  # otherwise it is cut as well
                problem = Problem(500, "this is a bug of the gateway; its log says where")
                await response_of(problem)(scope, receive, send)


async def check_rate(websocket: WebSocket) -> None:
    """Takes what a client asks over a WebSocket into account, as a request of its own. Raises Problem: it asks too
    much; or what it asks cannot be counted now."""
    try:
        await _check_rate(websocket.scope["rates"], caller_of(websocket))
    except WorldError as error:
        raise problem_of(error) from error


async def _check_rate(rates: Rates | None, caller: Caller) -> None:
    if rates is not None and (wait_s := await rates(caller.full_name)):
        raise Problem(429, f"{caller.name!r} asks for more than GATEWAY_RATE_PER_S allows", retry_s=wait_s)


def _credential(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    return headers.get("x-api-key", "") or (token.strip() if scheme.lower() == "bearer" else "")
