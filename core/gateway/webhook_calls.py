"""Calls of webhooks: the address that was checked is the one that is connected to, and nothing else leads there."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Self
from urllib.parse import urlsplit

import httpx

from core.errors import BadWebhook
from core.webhooks import WebhookRules, signature

__all__ = ["TRY_S", "WebhookCalls"]

#: How long one try may take, s; shorter than a claim.
TRY_S = 10.0
PROBLEM_CHARACTERS = 300


class WebhookCalls:
    """Calls whom the rules allow. Use it as a context manager."""

    def __init__(self, rules: WebhookRules) -> None:
        self._rules = rules

    async def __aenter__(self) -> Self:
        # Addresses are checked, so nothing in the environment may lead elsewhere. Several hosts may have one address,
        # so nothing that one of them has said or shown holds for the next: no cookie, and no connection.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=TRY_S, cookies=no_cookies, verify=_trusted(),
            limits=httpx.Limits(max_keepalive_connections=0),
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def call(self, url: str, delivery_id: str, content: bytes) -> str:
        """Calls a URL once. Returns what has gone wrong; empty: it was delivered."""
        try:
            self._rules.check(url)  # the settings may be others than when it was recorded
            async with asyncio.timeout(TRY_S):
                return await self._call(url, delivery_id, content)
        except TimeoutError:
            return f"it took longer than {TRY_S:g} s"
        except (BadWebhook, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"[:PROBLEM_CHARACTERS]

    async def _call(self, url: str, delivery_id: str, content: bytes) -> str:
        parts = urlsplit(url)
        host = parts.hostname or ""
        address = self._rules.hosts.reachable(await _addresses(host))
        if address is None:
            return f"host {host} has no public address, and GATEWAY_WEBHOOK_HOSTS allows none of its others"
        headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "X-Delivery-Id": delivery_id,
            "X-Signature": signature(self._rules.secret, int(time.time()), content),
        }
        there = httpx.URL(url).copy_with(host=address)
        # What is connected to is the address that was checked; the certificate has to be that of the host.
        extensions = {"sni_hostname": host}
        async with self._client.stream("POST", there, content=content, headers=headers, extensions=extensions) as told:
            return "" if told.is_success else f"the receiver has answered {told.status_code}"


def _trusted() -> ssl.SSLContext:
    """Trusts public certificate authorities, those that this machine trusts, and those in SSL_CERT_FILE."""
    context = httpx.create_ssl_context(trust_env=False)
    context.set_default_verify_paths()
    return context


async def _addresses(host: str) -> list[str]:
    """What a host is called by, in the order of preference. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))
