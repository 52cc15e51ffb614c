"""The proxy between agents and the server, on a real one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.chaos.proxy import Proxy, command
from core.config.settings import RedisConfig
from tests.redis_server import RedisServer
from tests.waiting import until

PATIENCE_S = 0.5


@pytest.fixture
def proxy(redis_server: RedisServer, redis_config: RedisConfig) -> Iterator[Proxy]:
    with Proxy(redis_server.directory / "socket") as running:
        yield running


@pytest.fixture
def direct(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.connect() as client:
        yield client


def through(proxy: Proxy, password: str, timeout_s: float = 10.0) -> redis.Redis:
    return redis.Redis(
        port=proxy.port, password=password, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=2
    )


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def test_what_is_sent_arrives_and_is_counted(proxy: Proxy, redis_server: RedisServer, direct: redis.Redis) -> None:
    large = b"x" * 8_000_000
    with through(proxy, redis_server.password) as client:
        client.set("k", large)
        assert direct.get("k") == client.get("k") == large
        assert (proxy.counters.accepted, proxy.counters.open) == (1, 1)
        assert min(proxy.counters.to_server_bytes, proxy.counters.to_client_bytes) > len(large)
    until(lambda: proxy.counters.open == 0, "the connection is closed")


def test_a_delay_is_added_in_each_direction_and_keeps_the_order(proxy: Proxy, redis_server: RedisServer) -> None:
    with through(proxy, redis_server.password) as client:
        client.ping()
        proxy.delay(to_server_s=0.05, to_client_s=0.1)
        began_s = time.monotonic()
        client.ping()
        assert time.monotonic() - began_s >= 0.15
        with client.pipeline(transaction=False) as many:
            for number in range(100):
                many.rpush("list", number)
            many.execute()
        assert client.lrange("list", 0, -1) == [b"%d" % number for number in range(100)]


def test_a_black_hole_for_replies_lets_requests_through(
    proxy: Proxy, redis_server: RedisServer, direct: redis.Redis
) -> None:
    with through(proxy, redis_server.password, PATIENCE_S) as client:
        client.ping()
        proxy.black_hole(to_server=False)
        with pytest.raises(redis.TimeoutError):
            client.set("k", "v")
        assert direct.get("k") == b"v"
        proxy.heal()
        assert client.get("k") == b"v"


def test_what_a_black_hole_held_back_arrives_late_though_its_sender_has_gone(
    proxy: Proxy, redis_server: RedisServer, direct: redis.Redis
) -> None:
    with through(proxy, redis_server.password, PATIENCE_S) as client:
        client.ping()
        proxy.black_hole(to_client=False)
        with pytest.raises(redis.TimeoutError):
            client.set("k", "v")
    assert direct.get("k") is None
    assert proxy.counters.open == 1
    proxy.heal()
    until(lambda: direct.get("k") == b"v" and proxy.counters.open == 0, "the old request arrives, then the end")


def test_a_request_that_matches_is_reset_before_the_server_sees_it(
    proxy: Proxy, redis_server: RedisServer, direct: redis.Redis
) -> None:
    with through(proxy, redis_server.password) as client:
        rule = proxy.on_request(command("SET"), "reset", nth=2)
        client.set("k", "first")
        with pytest.raises(redis.ConnectionError):
            client.set("k", "second")
        assert direct.get("k") == b"first"
        client.set("k", "third")
    assert (direct.get("k"), rule.seen, rule.hits) == (b"third", 3, 1)


def test_a_match_is_found_though_the_request_came_in_pieces(proxy: Proxy, redis_server: RedisServer) -> None:
    rule = proxy.on_request(command("SHUTDOWN"), "reset")
    with socket.create_connection(("127.0.0.1", proxy.port)) as raw:
        raw.sendall(b"*1\r\n$8\r\nSHUT")
        until(lambda: proxy.counters.to_server_bytes == 12, "the first piece is there")
        raw.sendall(b"DOWN\r\n")
        raw.settimeout(10)
        with pytest.raises(ConnectionResetError):
            raw.recv(100)
    assert rule.hits == 1


@pytest.mark.parametrize("words", [("SET", "k", "v"), ("XADD", "k", "*", "a", "b"), ("INCR", "k")], ids=lambda w: w[0])
def test_a_reply_that_is_swallowed_belongs_to_a_command_that_was_carried_out(
    proxy: Proxy, redis_server: RedisServer, direct: redis.Redis, words: tuple[str, ...]
) -> None:
    with through(proxy, redis_server.password) as client:
        rule = proxy.on_request(command(words[0]), "swallow")
        with pytest.raises(redis.ConnectionError):
            client.execute_command(*words)
        assert direct.exists("k") == 1
        assert client.ping()
    assert rule.hits == 1


def test_the_swallowed_reply_of_a_transaction_is_that_of_all_of_it(
    proxy: Proxy, redis_server: RedisServer, direct: redis.Redis
) -> None:
    with through(proxy, redis_server.password) as client:
        proxy.on_request(command("EXEC"), "swallow")
        with client.pipeline() as many:
            for number in range(10_000):
                many.rpush("list", number)
            with pytest.raises(redis.ConnectionError):
                many.execute()
    assert direct.llen("list") == 10_000


def test_a_blocking_read_whose_reply_is_swallowed_has_taken_something(
    proxy: Proxy, redis_server: RedisServer, direct: redis.Redis
) -> None:
    proxy.on_request(command("BLPOP"), "swallow")
    failed: list[redis.ConnectionError] = []

    def read() -> None:
        with through(proxy, redis_server.password) as client:
            try:
                client.blpop(["list"])
            except redis.ConnectionError as error:
                failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: direct.info("clients")["blocked_clients"] == 1, "the reader waits")
    direct.rpush("list", "a", "b")
    reader.join(20)
    assert (len(failed), direct.lrange("list", 0, -1)) == (1, [b"b"])


def test_only_the_connection_with_the_request_is_held(proxy: Proxy, redis_server: RedisServer) -> None:
    with (
        through(proxy, redis_server.password, PATIENCE_S) as held,
        through(proxy, redis_server.password) as free,
    ):
        proxy.on_request(command("GET"), "hold")
        with pytest.raises(redis.TimeoutError):
            held.get("k")
        assert free.ping()


def test_a_cut_resets_what_is_there_and_what_comes_until_it_is_healed(proxy: Proxy, redis_server: RedisServer) -> None:
    with through(proxy, redis_server.password) as client:
        client.ping()
        proxy.cut()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                client.ping()
        assert (proxy.counters.open, proxy.counters.reset) == (0, 1)
        assert proxy.counters.refused >= 1
        proxy.heal()
        assert client.ping()


def test_a_reset_ends_the_connections_that_there_are_and_no_others(proxy: Proxy) -> None:
    with connected(proxy) as before:
        until(lambda: proxy.counters.open == 1, "the proxy has the connection")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            before.recv(100)
    with connected(proxy) as after:
        after.sendall(b"PING\r\n")
        assert after.recv(100).startswith(b"-NOAUTH")


def test_a_server_that_is_away_looks_like_a_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        away = unused.getsockname()
    with Proxy(away) as proxy, pytest.raises(ConnectionResetError), connected(proxy) as raw:  # or while it connects
        raw.recv(100)


def test_nothing_is_left_when_it_ends(redis_server: RedisServer) -> None:
    before = threading.active_count()
    with Proxy(redis_server.directory / "socket") as proxy, through(proxy, redis_server.password) as client:
        client.ping()
        proxy.black_hole()
    assert (threading.active_count(), proxy.counters.open) == (before, 0)
    with pytest.raises(ConnectionRefusedError):
        connected(proxy)


def test_a_match_has_some_bytes(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="1 to 256 bytes, not 0"):
        proxy.on_request(b"", "reset")


def test_after_a_change_of_target_what_is_open_is_reset_and_who_comes_again_gets_to_the_other_server(
    proxy: Proxy, redis_server: RedisServer
) -> None:
    with RedisServer(redis_server.binary) as other, through(proxy, redis_server.password) as client:
        client.set("k", "v")
        other.ask("CONFIG", "SET", "requirepass", redis_server.password)
        proxy.retarget(other.socket)
        with suppress(redis.ConnectionError):  # or the reset was noticed before anything was asked
            client.get("k")
        assert client.get("k") is None
        assert (proxy.counters.accepted, proxy.counters.reset) == (2, 1)
