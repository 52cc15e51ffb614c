"""What every request passes before a route sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request, Response

from core.gateway.access import ApiKey, is_loopback, may, of_loopback, whose
from core.gateway.problems import Problem, response_of

__all__ = ["BODY_BYTES", "gate"]

#: The largest body of a request.
BODY_BYTES = 1024 * 1024
#: What may be asked without a key.
OPEN = ("/ok", "/health")

Next = Callable[[Request], Awaitable[Response]]


def gate(keys: tuple[ApiKey, ...]) -> Callable[[Request, Next], Awaitable[Response]]:
    """The middleware that lets requests in. Without keys, only those of this machine, and no foreign page's."""

    async def passed(request: Request, call_next: Next) -> Response:
        try:
            _check(request, keys)
        except Problem as problem:
            return response_of(problem)
        return await call_next(request)

    return passed


def _check(request: Request, keys: tuple[ApiKey, ...]) -> None:
    length = request.headers.get("Content-Length", "0")
    if "Transfer-Encoding" in request.headers:
        raise Problem(411, "the body has no Content-Length; send it with one")
    if not length.isdigit() or int(length) > BODY_BYTES:
        raise Problem(413, f"the body has {length[:20]} bytes, over the limit of {BODY_BYTES}")
    if not keys:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        origin = request.headers.get("Origin", "")
        if not is_loopback(host) or (origin and not of_loopback(origin)):
            raise Problem(403, "without GATEWAY_KEYS, only pages and programs of this machine may use this gateway")
        return
    if request.url.path in OPEN or request.method == "OPTIONS":
        return
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    key = whose(request.headers.get("X-Api-Key", "") or bearer, keys)
    if key is None:
        raise Problem(401, "give an API key, as X-Api-Key or Authorization: Bearer")
    if not may(key.role, request.method, request.url.path):
        raise Problem(403, f"a {key.role} only reads; use the key of an operator")
