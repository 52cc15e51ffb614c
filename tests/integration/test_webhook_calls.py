"""To whom a gateway connects when it calls a webhook, over real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.gateway.webhook_calls import WebhookCalls
from core.webhooks import WebhookRules, allowed_hosts
from tests.certificates import self_signed


class Server(ThreadingHTTPServer):
    heard: list[tuple[str, str]]


class Server6(Server):
    address_family = socket.AF_INET6


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.headers["Host"], self.path))
        self.send_response(200)
        self.send_header("Set-Cookie", "mark=1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = (Server6 if ":" in address else Server)((address, port), Handler)
    server.heard = []
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def called(url: str, allowed: str) -> str:
    async with WebhookCalls(WebhookRules(allowed_hosts(allowed), "secret")) as calls:
        return await calls.call(url, "task-1", b"{}")


async def test_a_name_that_leads_elsewhere_at_the_second_look_is_looked_up_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up: Callable[..., list[Any]] = socket.getaddrinfo
    asked: list[str] = []

    def rebinding(host: str, port: Any, *more: Any, **named: Any) -> list[Any]:
        if host != "hooks.example.com":
            return look_up(host, port, *more, **named)
        asked.append(host)
        return look_up("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with listening("127.0.0.1") as checked, listening("127.0.0.2", checked.server_address[1]) as inside:
        port = checked.server_address[1]
        url = f"http://hooks.example.com:{port}/x?y=1"
        assert await called(url, "hooks.example.com,127.0.0.1") == ""
        assert (checked.heard, inside.heard) == ([(f"hooks.example.com:{port}", "/x?y=1")], [])
        assert asked == ["hooks.example.com"]
        assert "has no public address" in await called(url, "hooks.example.com,127.0.0.1")
        assert inside.heard == []


async def test_a_receiver_at_an_ipv6_address_is_called_by_its_network_alone() -> None:
    with listening("::1") as server:
        port = server.server_address[1]
        url = f"http://[::1]:{port}/x"
        assert await called(url, "::1") == ""
        assert server.heard == [(f"[::1]:{port}", "/x")]
        assert "is not allowed" in await called(url, "127.0.0.1")
    with listening() as server:
        assert "is not allowed" in await called(f"http://[::ffff:127.0.0.1]:{server.server_address[1]}/", "127.0.0.1")
        assert server.heard == []


async def test_a_receiver_whose_authority_is_the_operators_own_is_called_and_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = self_signed(tmp_path, "own"), self_signed(tmp_path, "other", address="127.0.0.2")
    monkeypatch.setenv("SSL_CERT_FILE", str(own.cert))
    for pem, problem in ((own, ""), (other, "CERTIFICATE_VERIFY_FAILED")):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pem.cert, pem.key)
        with listening(tls=tls) as server:
            said = await called(f"https://127.0.0.1:{server.server_address[1]}/", "127.0.0.1")
            assert problem in said
            assert (said == "", len(server.heard)) == (not problem, int(not problem)), said


async def test_nothing_in_the_environment_leads_a_call_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as server, listening() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
        assert await called(f"http://127.0.0.1:{server.server_address[1]}/", "127.0.0.1") == ""
        assert (len(server.heard), proxy.heard) == (1, [])
