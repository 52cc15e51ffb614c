"""TLS and client certificates to a real server, behind a TLS endpoint of the test, since not every build speaks TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.config.settings import A2AConfig, RedisConfig, with_client_certificate
from core.embedded_server.embedded import ensure_server
from core.errors import AgentSystemError, ConfigError
from core.redis_client import Wire, client
from tests.certificates import Pem, self_signed
from tests.redis_server import RedisServer


@dataclass(frozen=True)
class Terminator:
    """Takes TLS from those who show the client's certificate, and passes the bytes on to the server."""

    port: int
    server: Pem
    client: Pem
    password: str

    def config(self, **more: object) -> RedisConfig:
        base = RedisConfig(host="127.0.0.1", port=self.port, use_tls=True, password=self.password)
        return base.model_copy(update=more)


@pytest.fixture
async def terminator(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Terminator]:
    async with terminating(redis_server, self_signed(tmp_path, "server"), self_signed(tmp_path, "client")) as opened:
        yield opened


@asynccontextmanager
async def terminating(redis_server: RedisServer, server: Pem, mine: Pem) -> AsyncIterator[Terminator]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(mine.cert))
    context.load_cert_chain(server.cert, server.key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
        except OSError:
            pass  # the client broke off: that is what some tests are about
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(redis_server.directory / "socket")
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        yield Terminator(listening.sockets[0].getsockname()[1], server, mine, redis_server.password)


async def test_a_client_certificate_opens_every_kind_of_connection(terminator: Terminator) -> None:
    mutual = A2AConfig(agent_id="a", use_mtls=True, cert_path=terminator.client.cert, key_path=terminator.client.key)
    config = with_client_certificate(terminator.config(ca_path=terminator.server.cert), mutual)

    assert await ensure_server(config) is config
    wire = Wire(config)
    await wire.connect()
    assert await wire.exchange([("PING",)]) == [b"PONG"]
    await wire.close()
    async with client(config) as redis:
        assert await redis.echo("x") == b"x"


async def test_without_the_client_certificate_nobody_gets_in(terminator: Terminator) -> None:
    config = terminator.config(ca_path=terminator.server.cert)

    with pytest.raises(AgentSystemError):
        await Wire(config).connect()
    with pytest.raises(AgentSystemError):
        await ensure_server(config)


async def test_a_server_whose_certificate_nobody_vouches_for_is_refused_with_the_cure(terminator: Terminator) -> None:
    for attempt in (Wire(terminator.config()).connect(), ensure_server(terminator.config())):
        with pytest.raises(ConfigError, match="REDIS_CA_PATH"):
            await attempt


@pytest.mark.parametrize(
    ("certificate", "problem", "cure"),
    [
        ({"begins": timedelta(hours=-2), "ends": timedelta(hours=-1)}, "has expired", "Renew it"),
        ({"begins": timedelta(hours=1), "ends": timedelta(hours=2)}, "not yet valid", "Set the clock"),
        ({"address": "127.0.0.2"}, "not valid for '127.0.0.1'", "Set REDIS_HOST"),
    ],
)
async def test_a_certificate_of_a_known_ca_that_is_not_good_now_or_here_is_refused_with_its_own_cure(
    certificate: dict[str, Any], problem: str, cure: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    server, mine = self_signed(tmp_path, "server", **certificate), self_signed(tmp_path, "client")
    async with terminating(redis_server, server, mine) as terminator:
        config = terminator.config(ca_path=server.cert)
        for attempt in (Wire(config).connect(), ensure_server(config)):
            with pytest.raises(ConfigError, match=f"{problem}.*{cure}") as caught:
                await attempt
            assert "REDIS_CA_PATH" not in str(caught.value)


async def test_a_client_certificate_that_has_expired_is_told_of_before_a_server_refuses_it_without_a_word(
    terminator: Terminator, tmp_path: Path
) -> None:
    expired = self_signed(tmp_path, "expired", begins=timedelta(hours=-2), ends=timedelta(hours=-1))
    config = terminator.config(ca_path=terminator.server.cert, cert_path=expired.cert, key_path=expired.key)
    for attempt in (Wire(config).connect(), ensure_server(config)):
        with pytest.raises(ConfigError, match="Renew it"):
            await attempt


async def test_files_that_are_no_pem_are_a_config_error(terminator: Terminator, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="PEM"):
        await Wire(terminator.config(ca_path=tmp_path / "empty")).connect()
