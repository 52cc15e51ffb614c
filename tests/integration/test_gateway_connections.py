"""Clients that are slow, too many, or only seem to be there: a gateway keeps no connection for them, and room for the
others."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from core.gateway import connections
from tests.gateways import answers, free_port
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until

#: Files that the gateway may open.
FILES = 120
IN_TIME_S = 20
#: The gateway, with times that a test can wait for.
HASTY = """
from core.gateway import connections, open_requests
connections.HEADERS_S = open_requests.BODY_S = 0.5
from core.gateway.__main__ import main
raise SystemExit(main())
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway") / "log"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    """A gateway with little patience that may open few files."""
    port = free_port()
    with RedisServer(bundled_server()) as server, log.open("wb") as output:
        gateway = subprocess.Popen(
            [sys.executable, "-c", HASTY, "--port", f"{port}"],
            env=server.environment | {"A2A_TOKEN_SECRET": "a secret of the tests, long enough", "LOG_FORMAT": "json"},
            cwd=Path(__file__).parents[2], stdout=output, stderr=output,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )  # fmt: skip
        try:
            until(lambda: answers(f"http://127.0.0.1:{port}"), "the gateway answers", 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            gateway.kill()
            gateway.wait()
        assert "Traceback" not in log.read_text()


def connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=IN_TIME_S)


def told(client: socket.socket) -> bytes:
    """All that it is told until it is cut off."""
    parts = []
    with suppress(ConnectionResetError):
        while part := client.recv(4096):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("said", [b"", b"GET /ok HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_client_that_does_not_come_to_say_what_it_wants_is_cut_off(url: str, said: bytes) -> None:
    with connected(url) as client:
        client.sendall(said)
        assert told(client) == b""


def test_a_second_request_that_does_not_come_to_its_end_is_cut_off_as_well(url: str) -> None:
    with connected(url) as client:
        client.sendall(b"GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ok HTTP/1.1\r\n")
        assert told(client).count(b'{"ok":true}') == 1


def test_a_body_that_does_not_come_is_answered_with_the_cure(url: str) -> None:
    with connected(url) as client:
        client.sendall(b"POST /tasks/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        answer = told(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"send it again, over a faster connection" in answer


def test_what_is_open_for_long_is_not_cut_off(url: str) -> None:
    with connect(f"{url.replace('http', 'ws')}/events/ws"), httpx.Client(base_url=url) as client:
        assert client.get("/agents/nobody/messages?timeout_s=1.2").json() == {"messages": []}
        with connect(f"{url.replace('http', 'ws')}/events/ws") as later:
            assert client.get("/agents/nobody/messages?timeout_s=1.2").status_code == 200
            later.ping().wait(IN_TIME_S)


def test_a_gateway_with_as_many_connections_as_it_may_have_says_so_and_is_there_again(url: str, log: Path) -> None:
    with ExitStack() as stack:
        many = [stack.enter_context(connected(url)) for _ in range(FILES)]
        assert any(told(client).startswith(b"HTTP/1.1 503 ") for client in many)
    until(lambda: answers(url), "it answers again")
    assert httpx.get(f"{url}/agents").status_code == 200, "Redis can be reached"
    assert 1 <= log.read_text().count('"connections_refused"') < 10, "not one for each"


def test_connections_to_clients_that_are_gone_are_given_up_by_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connections.give_up_dead_peers(listening)
        with socket.create_connection(listening.getsockname()[:2]), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            if sys.platform == "linux":
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
